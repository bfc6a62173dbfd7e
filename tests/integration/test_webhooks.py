"""Webhooks of a real server: called however often it takes, over kills, and never inside."""

import json
import re

import pytest
from standardwebhooks import Webhook

from palettery.schemas.jobs import Job
from tests.integration.service import SLOW
from tests.receiver import receiving


@pytest.fixture
def receiver():
    with receiving() as running:
        yield running


def secret(server):
    return server.http.get("/v1/webhook-secret").raise_for_status().json()["secret"]


def log(server, job_id):
    lines = server.http.get(f"/v1/jobs/{job_id}/log?limit=1000").json()["items"]
    return [line["message"] for line in lines]


def last_word(server, job_id):
    """Of the job's webhook, once there is one."""
    output = server.wait_until(
        lambda: [message for message in log(server, job_id) if "the webhook" in message],
        "the webhook's end is in the log",
    )
    (word,) = output
    return word


@pytest.mark.heavy
def test_called_at_the_end_over_failures_and_a_kill(own, model, receiver):
    receiver.answers = [500, 503, 302]
    job_id = own.submit(model, webhook_url=receiver.url())
    job = own.succeeded(job_id)
    own.wait_until(lambda: len(receiver.calls) >= 2, "two calls")
    own.kill_all()
    own.start()
    word = last_word(own, job_id)
    # A call that the kill cut off counts as a try only if its answer was noted.
    assert re.fullmatch(r"the webhook was called: HTTP 204 at try [34] of 9", word)
    assert 4 <= len(receiver.calls) <= 5, "a kill may cost one call twice"
    assert len({headers["webhook-id"] for headers, _ in receiver.calls}) == 1
    for headers, body in receiver.calls:
        message = Webhook(secret(own)).verify(body, headers)
        assert message["type"] == "job.succeeded"
        assert Job.model_validate(message["data"]) == Job.model_validate(job)


@pytest.mark.heavy
def test_every_kind_of_end_is_told(own, large_model, receiver):
    running, queued = (
        own.submit(large_model, config=SLOW, webhook_url=receiver.url(), deadline_s=3)
        for _ in range(2)
    )
    own.http.post(f"/v1/jobs/{queued}/cancel").raise_for_status()
    own.ended(running)
    own.wait_until(lambda: len(receiver.calls) == 2, "both ends are told")
    types = {json.loads(body)["data"]["id"]: json.loads(body)["type"] for _, body in receiver.calls}
    assert types == {queued: "job.cancelled", running: "job.failed"}


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest/meta-data", "http://[::1]/", "http://2130706433/"]
)
def test_literal_private_addresses_are_refused_at_once(embedded, model, url):
    answer = embedded.http.post(
        "/v1/jobs", files={"model": ("m.safetensors", model)}, data={"webhook_url": url}
    )
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "invalid_webhook"
    assert answer.json()["errors"][0]["pointer"] == "/webhook_url"
    assert embedded.leftovers() == []


@pytest.mark.heavy
def test_names_of_private_addresses_are_never_called(embedded, model, receiver):
    job_id = embedded.submit(model, webhook_url=receiver.url("localhost"))
    embedded.succeeded(job_id)
    word = last_word(embedded, job_id)
    assert word.startswith("the webhook is not called: its host has an address that is not")
    assert receiver.calls == []


def test_secret_rotates(embedded):
    before = secret(embedded)
    assert before == secret(embedded)
    after = embedded.http.post("/v1/webhook-secret/rotate").raise_for_status().json()["secret"]
    assert after == secret(embedded) != before
