import asyncio

import pytest
from pydantic import BaseModel

from palettery.app.client import AsyncClient, events
from palettery.app.client.events import JobEvent
from palettery.app.errors import NotFound, PaletteryError
from palettery.schemas.events import DeletedJob, LogLine
from palettery.schemas.jobs import Job, JobPage, Progress
from tests.app.client.conftest import Answer, error_answer

QUEUED, RUNNING, DONE = (
    Job(
        id="j",
        state=state,
        owner="local",
        model_name="m.safetensors",
        created_at="2026-01-01T00:00:00Z",
        progress=Progress(bytes_done=done, bytes_total=9),
        size_before_bytes=1,
        links={},
    )
    for state, done in (("queued", 0), ("running", 0), ("succeeded", 9))
)
LINE = LogLine(
    at="2026-01-01T00:00:00Z", level="info", message="one\u2028line\x85still", tensor="a"
)
HALF = Progress(bytes_done=4, bytes_total=9)


def sent(*messages, **headers):
    """An answer with events: (number or None, name, data)."""
    text = ": ping\n\n" + "".join(
        (f"id: {number}\n" if number else "") + f"event: {name}\ndata: {data.model_dump_json()}\n\n"
        for number, name, data in messages
    )
    return Answer(body=text.encode(), headers={"Content-Type": "text/event-stream"} | headers)


FIRST = sent((1, "state", QUEUED), (2, "state", RUNNING), (None, "progress", HALF))
REST = sent((3, "log", LINE), (None, "colour", HALF), (4, "state", DONE))
NOTHING = Answer(204, b"")
ALL = [
    JobEvent(1, QUEUED),
    JobEvent(2, RUNNING),
    JobEvent(2, HALF),
    JobEvent(3, LINE),
    JobEvent(4, DONE),
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(events, "RECONNECT_S", 0)


def resumed(scripted):
    return [headers["Last-Event-ID"] for _, headers in scripted.requests]


def test_events_go_on_behind_the_last_one_over_reconnects(scripted, client):
    scripted.answers = [FIRST, Answer(lost=True), Answer(503), REST, NOTHING]
    assert list(client.events("j")) == ALL
    assert resumed(scripted) == ["0", "2", "2", "2", "4"]


def test_a_connection_that_breaks_within_an_event(scripted, client):
    cut = Answer(FIRST.status, FIRST.body, FIRST.headers, sent_bytes=len(FIRST.body) - 10)
    scripted.answers = [cut, REST, NOTHING]
    assert list(client.events("j")) == [event for event in ALL if event.data != HALF]


def test_events_from_behind_a_number(scripted, client):
    scripted.answers = [REST, NOTHING]
    assert list(client.events("j", after=2)) == ALL[3:]
    assert resumed(scripted) == ["2", "4"]


def test_a_job_that_was_retried(scripted, client):
    failed = DONE.model_copy(update={"state": "failed"})
    scripted.answers = [sent((1, "state", failed)), sent((2, "state", DONE)), NOTHING]
    assert [event.data.state for event in client.events("j")] == ["failed", "succeeded"]


def test_an_iteration_may_be_given_up(scripted, client):
    scripted.answers = [FIRST, Answer(body=RUNNING.model_dump_json().encode())]
    coming = client.events("j")
    assert next(coming) == ALL[0]
    coming.close()
    assert client.job("j") == RUNNING


def test_wait_returns_the_job_that_has_ended(scripted, client, capsys):
    scripted.answers = [FIRST, REST, NOTHING, Answer(body=DONE.model_dump_json().encode())]
    assert client.wait("j") == DONE
    assert capsys.readouterr() == ("", "")


def test_no_events(scripted, client):
    scripted.answers = [error_answer(NotFound("no job j"))]
    with pytest.raises(NotFound):
        list(client.events("j"))
    scripted.answers = [Answer(body=b"<html>", headers={"Content-Type": "text/html"})]
    with pytest.raises(PaletteryError, match="text/html"):
        list(client.events("j"))
    broken = Answer(body=b"event: state\ndata: {}\n\n", headers=FIRST.headers)
    scripted.answers = [broken]
    with pytest.raises(PaletteryError, match="cannot read"):
        list(client.events("j"))


def test_asynchronously(scripted):
    scripted.answers = [FIRST, REST, NOTHING]

    async def followed():
        async with AsyncClient(scripted.url) as client:
            return [event async for event in client.events("j")]

    assert asyncio.run(followed()) == ALL


def test_list_of_jobs_is_fetched_anew_after_each_connection(scripted, client):
    other = RUNNING.model_copy(update={"id": "k"})
    gone = DeletedJob(id="j")

    def page(*jobs):
        return Answer(body=JobPage(items=jobs).model_dump_json().encode())

    class Nothing(BaseModel):
        pass

    opened = (None, "open", Nothing())
    scripted.answers = [
        sent(opened, (None, "job", RUNNING), (None, "colour", HALF), (None, "job", other)),
        page(QUEUED),
        sent(opened, (None, "gone", DeletedJob(id="k"))),
        page(other),
        sent(opened),
        page(),
        sent(opened, (None, "job", DONE)),
        page(),
    ]
    watched = client.watch()
    changes = [next(watched) for _ in range(7)]
    assert changes == [QUEUED, RUNNING, other, gone, other, DeletedJob(id="k"), DONE]
    paths = ["GET /v1/events", "GET /v1/jobs?limit=100"]
    assert scripted.request_lines() == paths * 4
    watched.close()
