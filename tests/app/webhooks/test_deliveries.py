"""Calls of webhooks: what is sent, what counts as delivered, and what the job's log tells."""

import asyncio
import itertools
import json
import socket

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from palettery.app.errors import StorageFull, problem
from palettery.app.events.repository import EventRepository
from palettery.app.execution.engine import WorkflowCall
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.app.settings import Settings
from palettery.app.webhooks.deliveries import MAX_ATTEMPTS, DeliveryOutcome, WebhookDeliveries
from palettery.app.webhooks.repository import WebhookRepository
from palettery.schemas.job_options import JobOptions
from palettery.schemas.jobs import Job, Progress
from tests.databases import KINDS_IN_HEAVY

pytestmark = pytest.mark.databases(*KINDS_IN_HEAVY)

numbers = itertools.count()
WHY = problem(StorageFull("the store is full"))


class Service:
    """Jobs that end, and what calls their webhooks; nobody serves the queue."""

    def __init__(self, database, engine, **settings):
        self.engine = engine
        self.records = JobRepository(database, notify=engine.call_webhook)
        self.events, self.webhooks = EventRepository(database), WebhookRepository(database)
        values = {"webhook_private": True, "webhook_retry_s": 1.0} | settings
        self.deliveries = WebhookDeliveries(Settings(**values), self.events, self.webhooks, engine)

    def ended(self, url, owner="me"):
        """The call that the end of a new job asks for."""
        job_id = f"01890a5d-ac96-774b-bcce-{next(numbers):012x}"
        new = NewJob(job_id, "m", 1, Progress(), owner, JobOptions(webhook_url=url))
        self.records.add(new)
        self.records.fail(job_id, WHY)
        (call,) = self.queued(job_id)
        return call

    def queued(self, job_id):
        """Calls that the engine has queued."""
        workflows = self.engine._client.list_workflows()
        mine = [each for each in workflows if each.workflow_id.startswith(f"{job_id}-")]
        return [WorkflowCall(*each.input["args"]) for each in mine if "webhook" in each.workflow_id]

    def call(self, call):
        return asyncio.run(self.deliveries.call(call))

    def conclude(self, call, outcome):
        asyncio.run(self.deliveries.conclude(call, outcome))

    def log(self, call):
        return self.events.lines(call.job_id, call.number, 100).items


@pytest.fixture
def database(whole_database):
    return whole_database


@pytest.fixture
def service(database, engine):
    return Service(database, engine)


def test_message_is_the_job_at_its_end_and_signed(service, receiver):
    call = service.ended(receiver.url())
    job = service.records.get(call.job_id)
    assert service.call(call) == DeliveryOutcome("delivered", "HTTP 204")
    service.records.retry(call.job_id)
    service.call(call)
    for headers, body in receiver.calls:
        message = Webhook(service.webhooks.secret("me")).verify(body, headers)
        assert (message["type"], Job.model_validate(message["data"])) == ("job.failed", job)
        assert headers["content-type"] == "application/json"
    first, second = receiver.calls
    assert first[0]["webhook-id"] == second[0]["webhook-id"]
    assert first[1] == second[1], "the same message, though the job has gone on"


def test_each_end_has_an_id_of_its_own(service, receiver):
    call = service.ended(receiver.url())
    service.records.retry(call.job_id)
    service.records.cancel(call.job_id)
    calls = sorted(service.queued(call.job_id))
    for each in calls:
        service.call(each)
    assert [each.attempt for each in calls] == [0, 1]
    assert len({headers["webhook-id"] for headers, _ in receiver.calls}) == 2
    types = [json.loads(body)["type"] for _, body in receiver.calls]
    assert types == ["job.failed", "job.cancelled"]


def test_secrets_are_an_owners_own_and_change_when_asked(service, receiver):
    before = service.webhooks.secret("me")
    assert before == service.webhooks.secret("me") != service.webhooks.secret("other")
    after = service.webhooks.rotate("me")
    assert after == service.webhooks.secret("me") != before
    service.call(service.ended(receiver.url()))
    headers, body = receiver.calls[0]
    with pytest.raises(WebhookVerificationError):
        Webhook(before).verify(body, headers)
    Webhook(after).verify(body, headers)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "delivered"), (299, "delivered"), (410, "refused"), (301, "failed"), (302, "failed"),
     (400, "failed"), (404, "failed"), (500, "failed"), (503, "failed")],
)  # fmt: skip
def test_status_decides(service, receiver, status, outcome):
    receiver.answers, receiver.headers = [status], {"Location": receiver.url(path="/elsewhere")}
    assert service.call(service.ended(receiver.url())) == DeliveryOutcome(outcome, f"HTTP {status}")
    assert len(receiver.calls) == 1, "redirects are not followed"


def test_endless_answer_is_cut_off(service, receiver):
    receiver.answers, receiver.body = [200], b"x" * (8 << 20)
    assert service.call(service.ended(receiver.url())) == DeliveryOutcome("delivered", "HTTP 200")


def test_nobody_there(service):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        call = service.ended(f"http://127.0.0.1:{taken.getsockname()[1]}/")
        assert service.call(call) == DeliveryOutcome("failed", "no answer: ConnectError")


def test_silent_and_odd_servers(service, monkeypatch):
    monkeypatch.setattr("palettery.app.webhooks.deliveries.TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        call = service.ended(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        assert service.call(call) == DeliveryOutcome("failed", "no answer within 0.3 s")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "[::ffff:127.0.0.1]"])
def test_private_hosts_are_refused_without_a_word_to_them(database, engine, receiver, host):
    service = Service(database, engine, webhook_private=False)
    outcome = service.call(service.ended(receiver.url(host)))
    assert outcome.status == "refused"
    assert "public" in outcome.reason
    assert receiver.calls == []


def test_failed_calls_are_tried_again_later_and_later(service):
    call = service.ended("https://example.com/")
    delays = []
    later = service.engine.call_webhook_later
    service.engine.call_webhook_later = lambda again, wait_s: (
        delays.append(wait_s) or later(again, wait_s)
    )
    for tries in range(MAX_ATTEMPTS):
        service.conclude(call._replace(tries=tries), DeliveryOutcome("failed", "HTTP 500"))
    assert [each.tries for each in sorted(service.queued(call.job_id))] == list(range(MAX_ATTEMPTS))
    assert delays == [4.0**n for n in range(MAX_ATTEMPTS - 1)]
    (line,) = service.log(call)
    assert (line.level, line.message) == (
        "warning",
        "the webhook was given up: HTTP 500 at try 9 of 9",
    )
    (state,) = {each.status for each in service.engine._client.list_workflows()} - {"ENQUEUED"}
    assert state == "DELAYED"


def test_same_conclusion_twice_calls_once(service):
    call = service.ended("https://example.com/")
    for _ in range(2):
        service.conclude(call, DeliveryOutcome("failed", "HTTP 500"))
    assert [each.tries for each in sorted(service.queued(call.job_id))] == [0, 1]


CALLED = "the webhook was called: HTTP 204 at try 3"
NOT_CALLED = "the webhook is not called: HTTP 410 at try 3"


@pytest.mark.parametrize(
    ("outcome", "level", "message"),
    [
        (DeliveryOutcome("delivered", "HTTP 204"), "info", CALLED),
        (DeliveryOutcome("refused", "HTTP 410"), "warning", NOT_CALLED),
    ],
)
def test_last_word_is_in_the_log_once(service, outcome, level, message):
    call = service.ended("https://example.com/")._replace(tries=2)
    for _ in range(2):
        service.conclude(call, outcome)
    (line,) = service.log(call)
    assert line.level == level
    assert line.message.startswith(message)


def test_deleted_job_is_not_told_of(service, receiver):
    call = service.ended(receiver.url())
    service.conclude(call, DeliveryOutcome("failed", "HTTP 500"))
    service.records.delete(call.job_id)
    service.engine.delete_workflows(call.job_id, 0)
    assert service.queued(call.job_id) == []
    assert service.call(call) is None
    assert receiver.calls == []


def test_job_without_a_webhook_asks_for_no_call(service):
    job_id = service.records.add(NewJob("1" * 36, "m", 1, Progress())).id
    service.records.cancel(job_id)
    assert service.queued(job_id) == []
