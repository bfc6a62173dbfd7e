"""Requests for jobs and plans, in every form and more than once, on real services."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from schemas.problem import Problem

AT_ONCE = 6


@pytest.fixture
def submit(server, model, request):
    """Send the small model with a key of this test's own."""

    def send(key, body=model, **fields):
        return server.http.post(
            "/v1/jobs",
            files={"model": ("m.safetensors", body)},
            data=fields or {"preset": "w4"},
            headers={"Idempotency-Key": f"{request.node.name}-{key}"},
        )

    return send


def refused(answer, status, code):
    assert answer.status_code == status, answer.text
    told = Problem.model_validate_json(answer.content)
    assert (told.status, told.code) == (status, code)
    return told


def test_same_key_and_request_give_the_same_job(server, submit):
    first = submit("a")
    assert first.status_code == 202
    assert "idempotent-replayed" not in first.headers
    server.succeeded(first.json()["id"])
    again = submit("a")
    assert again.status_code == 202
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert again.json()["state"] == "succeeded"
    assert submit("b").headers["location"] != first.headers["location"]
    assert server.leftovers() == []


def test_same_key_with_another_request_is_refused(server, submit, model):
    assert submit("a").status_code == 202
    for other in (
        submit("a", preset="w6"),
        submit("a", preset="w4", priority="9"),
        submit("a", model + b" "),
    ):
        told = refused(other, 409, "idempotency_conflict")
        assert "send a new key" in told.detail
    assert server.leftovers() == []


def test_request_that_failed_does_not_use_up_its_key(submit):
    refused(submit("a", preset="w5"), 422, "unknown_preset")
    assert "idempotent-replayed" not in submit("a").headers


def test_same_request_many_times_at_once_is_one_job(server, submit):
    with ThreadPoolExecutor(AT_ONCE) as senders:
        answers = list(senders.map(lambda _: submit("a"), range(AT_ONCE)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.headers["location"] for answer in answers}) == 1
    replayed = [answer for answer in answers if "idempotent-replayed" in answer.headers]
    assert len(replayed) == AT_ONCE - 1
    assert server.leftovers() == []


@pytest.mark.parametrize("key", ["", "a b", "ä".encode(), "x" * 256])
def test_key_that_is_none(server, model, key):
    answer = server.http.post(
        "/v1/jobs",
        files={"model": ("m.safetensors", model)},
        data={"preset": "w4"},
        headers={"Idempotency-Key": key},
    )
    told = refused(answer, 422, "bad_input")
    assert [error.pointer for error in told.errors] == ["/header/Idempotency-Key"]
