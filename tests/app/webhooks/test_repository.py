"""Secrets and targets of webhooks."""

import pytest

from palettery.app.jobs.repository import JobRepository
from palettery.app.webhooks.repository import WebhookRepository
from palettery.schemas.job_options import JobOptions
from tests.app.jobs.sample_jobs import add

URL = "https://example.com/hook"


@pytest.fixture
def webhooks(database):
    return WebhookRepository(database)


def test_each_owner_has_a_secret_until_it_is_replaced(webhooks):
    first, other = webhooks.secret("a"), webhooks.secret("b")
    assert first.startswith("whsec_")
    assert first != other
    assert webhooks.secret("a") == first
    second = webhooks.rotate("a")
    assert second != first
    assert (webhooks.secret("a"), webhooks.secret("b")) == (second, other)


def test_target_of_a_job(database, webhooks):
    jobs = JobRepository(database)
    with_hook, without = add(jobs, options=JobOptions(webhook_url=URL), owner="a"), add(jobs)
    assert webhooks.target(with_hook) == (URL, webhooks.secret("a"))
    assert webhooks.target(without) is None
    jobs.cancel(with_hook)
    jobs.delete(with_hook)
    assert webhooks.target(with_hook) is None
