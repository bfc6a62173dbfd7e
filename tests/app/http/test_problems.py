"""Problems: their form, their headers, and what the API's description says of them."""

import json

import httpx
import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from palettery.app.errors import OverQuota, PaletteryError, StorageFull
from palettery.app.http.problems import (
    MEDIA_TYPE,
    add_problem_handlers,
    http_problem,
    problem_response,
    problems,
)

REQUESTS = [
    *(("GET", "/a/1"), ("GET", "/a/x"), ("POST", "/a/1"), ("OPTIONS", "/a/1")),
    ("GET", "/nowhere"),
]


@pytest.fixture
def answer():
    """A function: an error that an endpoint raises -> the response."""

    async def ask(error):
        app = FastAPI()

        @app.get("/a/{number}")
        async def endpoint(number: int) -> None:
            raise error if number else AssertionError

        add_problem_handlers(app, app.routes)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return [await http.request(method, path) for method, path in REQUESTS]

    return ask


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_every_error_is_a_problem(answer):
    raised, invalid, method, options, missing = await answer(OverQuota("too many"))
    assert (raised.status_code, raised.headers["retry-after"]) == (429, "30")
    assert raised.json()["instance"] == "/a/1"
    assert [error["pointer"] for error in invalid.json()["errors"]] == ["/path/number"]
    assert (method.status_code, method.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    for each in (raised, invalid, method, missing):
        assert each.headers["content-type"] == MEDIA_TYPE
        assert each.json()["status"] == each.status_code


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_unexpected_errors_tell_nothing_and_are_logged(answer, caplog):
    first, *_ = await answer(KeyError("inside"))
    assert (first.status_code, "inside" in first.text) == (500, False)
    assert "GET /a/1 failed" in caplog.text
    cut_off = RuntimeError()
    cut_off.__cause__ = StorageFull("the disk is full")
    await answer(cut_off)
    assert "GET /a/1 was cut off: the disk is full" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_errors_of_http_have_codes_and_headers(answer):
    first, *_ = await answer(HTTPException(413, "over 9 bytes", {"X-A": "b"}))
    assert (first.json()["code"], first.headers["connection"]) == ("too_large", "close")
    assert first.headers["x-a"] == "b"


def test_form_of_a_problem():
    made = http_problem(418, "short and stout")
    assert (made.code, made.title) == ("http", "I'm a Teapot")
    assert "instance" not in json.loads(problem_response(made).body)
    documented = problems(_404="no such job")
    assert documented["404"]["content"].keys() == {MEDIA_TYPE}
    assert issubclass(OverQuota, PaletteryError)
