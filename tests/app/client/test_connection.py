import pytest

from palettery.app.client import Client
from palettery.app.errors import BadInput, Conflict, NotFound, PaletteryError, Unavailable
from palettery.schemas.jobs import Job
from palettery.schemas.problem import InvalidField
from tests.app.client.conftest import Answer, error_answer

JOB = Job(
    id="j",
    state="queued",
    owner="local",
    model_name="m.safetensors",
    created_at="2026-01-01T00:00:00Z",
    size_before_bytes=1,
    links={},
)
FOUND = Answer(body=JOB.model_dump_json().encode())
LOST = Answer(lost=True)
BUSY = error_answer(Unavailable("busy"), Retry_After="0")
RAISED = [BUSY, LOST, Answer(502, b"a proxy's page")]


@pytest.mark.parametrize("failure", RAISED)
def test_what_passes_is_tried_again(scripted, client, failure):
    scripted.answers = [FOUND, failure, failure, failure, FOUND]
    client.job("j")
    assert client.job("j") == JOB
    assert scripted.request_lines() == ["GET /v1/jobs/j"] * 5


def test_what_does_not_pass_is_raised_in_the_end(scripted, client):
    scripted.answers = [FOUND, BUSY]
    client.job("j")
    with pytest.raises(Unavailable, match="busy"):
        client.job("j")
    assert len(scripted.requests) == 1 + 4


def test_a_server_that_never_answers_is_given_up_sooner(scripted, client):
    scripted.answers = [LOST]
    with pytest.raises(Unavailable, match="was lost"):
        client.job("j")
    assert len(scripted.requests) == 3


def test_a_server_that_wants_long_patience_is_believed_at_once(scripted):
    scripted.answers = [error_answer(Unavailable("come tomorrow"), Retry_After="86400"), FOUND]
    with Client(scripted.url) as client, pytest.raises(Unavailable, match="come tomorrow"):
        client.job("j")
    assert len(scripted.requests) == 1


@pytest.mark.parametrize(
    "error",
    [NotFound("no job j"), BadInput("no", [InvalidField(pointer="/a", detail="b")])],
)
def test_a_problem_is_raised_as_its_error_at_once(scripted, client, error):
    scripted.answers = [error_answer(error)]
    with pytest.raises(type(error)) as raised:
        client.job("j")
    assert (raised.value.detail, raised.value.errors) == (error.detail, error.errors)
    assert len(scripted.requests) == 1


def test_an_error_of_ours_carries_its_request_id(scripted, client):
    scripted.answers = [error_answer(PaletteryError("oh no"), X_Request_ID="abc")]
    with pytest.raises(PaletteryError, match="oh no \\(request abc\\)"):
        client.job("j")


@pytest.mark.parametrize(
    ("answer", "kind"), [(Answer(418, b"<html>"), BadInput), (Answer(500, b"x"), PaletteryError)]
)
def test_an_answer_of_another_program(scripted, client, answer, kind):
    scripted.answers = [answer]
    with pytest.raises(kind, match=f"responded with {answer.status}"):
        client.job("j")
    scripted.answers = [Answer(body=b"<html>")]
    with pytest.raises(PaletteryError, match="not a Job that this client reads"):
        client.job("j")


def test_what_a_newer_server_adds_is_left_out(scripted, client):
    body = FOUND.body.replace(b'"id"', b'"colour": "red", "id"')
    body = body.replace(b'"tensors_done"', b'"shade": 3, "tensors_done"')
    scripted.answers = [Answer(body=body)]
    assert client.job("j") == JOB


def test_a_delete_whose_answer_was_lost_is_done(scripted, client):
    scripted.answers = [LOST, error_answer(NotFound("no job j"))]
    client.delete("j")
    with pytest.raises(NotFound):
        client.delete("j")


def test_a_cancel_whose_answer_was_lost_is_done(scripted, client):
    cancelled = JOB.model_copy(update={"state": "cancelled"})
    answer = Answer(body=cancelled.model_dump_json().encode())
    scripted.answers = [LOST, error_answer(Conflict("the job is cancelled")), answer]
    assert client.cancel("j") == cancelled
    scripted.answers = [error_answer(Conflict("the job is succeeded")), FOUND]
    with pytest.raises(Conflict):
        client.cancel("j")


def test_what_must_not_be_done_twice_is_sent_once(scripted, client):
    scripted.answers = [LOST, FOUND]
    with pytest.raises(Unavailable):
        client.retry("j")
    assert scripted.request_lines() == ["POST /v1/jobs/j/retry"]
    scripted.answers = [BUSY, FOUND]
    assert client.retry("j") == JOB


def test_a_submit_that_is_sent_again_is_one_request(scripted, client):
    scripted.answers = [LOST, BUSY, FOUND]
    client.submit("0" * 64, preset="w4")
    client.submit("0" * 64, preset="w4")
    client.submit("0" * 64, preset="w4", idempotency_key="mine")
    sent = [headers["Idempotency-Key"] for _, headers in scripted.requests]
    assert sent[0] == sent[1] == sent[2]
    assert len(set(sent)) == 3
    assert sent[-1] == "mine"


def test_the_key_is_sent(scripted, monkeypatch):
    scripted.answers = [FOUND]
    monkeypatch.delenv("PALETTERY_KEY", raising=False)
    with Client(scripted.url) as client:
        client.job("j")
    with Client(scripted.url, key="plt_a") as client:
        client.job("j")
    monkeypatch.setenv("PALETTERY_KEY", "plt_b")
    with Client(scripted.url) as client:
        client.job("j")
    sent = [headers.get("Authorization") for _, headers in scripted.requests]
    assert sent == [None, "Bearer plt_a", "Bearer plt_b"]


def test_what_surrounds_a_key_is_not_sent(scripted, monkeypatch):
    scripted.answers = [FOUND]
    monkeypatch.setenv("PALETTERY_KEY", " plt_a\r\n")
    with Client(scripted.url) as client:
        client.job("j")
    assert scripted.requests[0][1]["Authorization"] == "Bearer plt_a"


@pytest.mark.parametrize("key", ["plt_\u00e9", "plt_a b", "plt_a\nX: b", "plt_\udcff", "plt_\x7f"])
def test_a_key_that_is_none_is_not_told(key):
    with pytest.raises(BadInput, match="the key has") as raised:
        Client("http://127.0.0.1:9", key=key)
    assert "plt_" not in raised.value.detail


@pytest.mark.parametrize("url", ["", "localhost:8400", "ftp://a", "http://", "http://a:b"])
def test_a_url_that_is_none(url):
    with pytest.raises(BadInput, match="URL"):
        Client(url or "127.0.0.1")
