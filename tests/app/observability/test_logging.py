"""Log records: content, context and protection against log injection."""

import io
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from asgi_correlation_id import correlation_id
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from palettery.app.http.server import build_server
from palettery.app.observability import logging as logs
from palettery.app.observability.metrics import Metrics
from palettery.app.settings import Clients, Settings

DEADLINE_S = 30


@contextmanager
def written(form: str | None = "json") -> Iterator[io.StringIO]:
    """What is logged meanwhile, in a form."""
    stream = io.StringIO()
    handler = logs.handler(Settings(log_format=form), stream)
    logger = logging.getLogger("palettery")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield stream
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


log = logging.getLogger("palettery.test")


def test_json_tells_time_level_and_logger():
    with written() as stream:
        log.warning("%d of them", 3)
    (line,) = lines(stream)
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "WARNING", "logger": "palettery.test", "message": "3 of them"}


def test_lines_name_their_job_and_request():
    with written() as stream:
        token = correlation_id.set("a-request")
        with logs.job_context("a-job"):
            log.info("in it")
        correlation_id.reset(token)
        log.info("outside")
    inside, outside = lines(stream)
    assert (inside["job_id"], inside["request_id"]) == ("a-job", "a-request")
    assert not {"job_id", "request_id"} & outside.keys()


def test_text_tells_the_same():
    with written("text") as stream, logs.job_context("a-job"):
        log.info("in it")
    assert stream.getvalue().endswith("INFO palettery.test: in it [job_id=a-job]\n")


@pytest.mark.heavy
@pytest.mark.parametrize("first", ["configure", "torch"])
def test_torch_writes_in_our_format(first):
    """It adds handlers when it is imported, with a format of its own."""
    imported = "import torch, torch._dynamo"
    configured = "logs.configure(Settings(log_format='json'))"
    steps = [configured, imported] if first == "configure" else [imported, configured]
    program = [
        "import logging",
        "from palettery.app.observability import logging as logs",
        "from palettery.app.settings import Settings",
        *steps,
        "logging.getLogger('torch.utils._pytree').warning('old')",
        "logging.getLogger('torch._dynamo').warning('older')",
    ]
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(program)], capture_output=True, text=True, check=True
    )
    assert [json.loads(line)["message"] for line in ended.stderr.splitlines()] == ["old", "older"]


def test_nobody_writes_a_line_of_their_own():
    with written("text") as stream:
        log.info("GET %s", "/x\r\n2026 INFO palettery.app.keys: welcome\x1b[2J\x9b")
    assert len(stream.getvalue().splitlines()) == 1
    assert stream.getvalue().rstrip("\n").isprintable()


@pytest.mark.parametrize("form", ["text", "json"])
def test_failure_comes_with_its_traceback(form):
    with written(form) as stream:
        try:
            raise ValueError("for a reason")
        except ValueError:
            log.exception("failed")
    assert "ValueError: for a reason" in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 1 or form == "text"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "is_json"), [(io.StringIO(), True), (Terminal(), False)])
def test_terminals_get_text(stream, is_json):
    handler = logs.handler(Settings(), stream)
    handler.handle(logging.makeLogRecord({"msg": "said"}))
    assert stream.getvalue().startswith("{") == is_json


async def answer(_: Request) -> Response:
    log.info("said within")
    return Response("four")


async def fail(_: Request) -> Response:
    raise RuntimeError("on purpose")


async def stream(_: Request) -> Response:
    async def pieces():
        for piece in ("a", "b"):
            log.info("sending")
            yield piece

    return StreamingResponse(pieces())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    routes = [
        Route("/things/{name}", answer, methods=["GET", "POST"]),
        Route("/failing", fail),
        Route("/stream", stream),
    ]
    made = build_server(Starlette(routes=routes), Clients(), Metrics())
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    made.should_exit = True
    thread.join()


def access_line(stream: io.StringIO) -> dict[str, object]:
    """The line about a request, which comes after its answer."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        results = [
            line for line in lines(stream) if line["logger"] == "palettery.app.http.middleware"
        ]
        if results:
            return results[0]
        time.sleep(0.01)
    raise AssertionError("no line")


def test_request_is_logged_with_its_id_and_without_its_query(url):
    with written() as stream:
        answered = httpx.post(
            f"{url}/things/%0Aone?token=secret", headers={"X-Request-ID": "mine-1"}, content=b"abc"
        )
        line = access_line(stream)
    assert answered.headers.get_list("X-Request-ID") == ["mine-1"]
    assert "secret" not in stream.getvalue()
    assert line.pop("ms") > 0
    assert line.pop("time")
    assert line == {
        "level": "INFO",
        "logger": "palettery.app.http.middleware",
        "message": "POST /things/\none 200",
        "method": "POST",
        "path": "/things/\none",
        "status": 200,
        "received_bytes": 0,
        "sent_bytes": 4,
        "request_id": "mine-1",
        "route": "/things/{name}",
    }
    within = next(line for line in lines(stream) if line["message"] == "said within")
    assert within["request_id"] == "mine-1"


@pytest.mark.parametrize("given", [None, "", "x" * 129, "with space", "\xfc", "a\tb"])
def test_ids_that_cannot_be_kept_are_made_anew(url, given):
    headers = {} if given is None else {"X-Request-ID": given.encode("latin-1")}
    made = httpx.get(f"{url}/things/1", headers=headers).headers["X-Request-ID"]
    assert len(made) == 32
    assert made != httpx.get(f"{url}/things/1", headers=headers).headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("path", "status"), [("/stream", 200), ("/failing", 500), ("/nowhere", 404)]
)
def test_every_answer_bears_its_id(url, path, status):
    with written() as stream:
        answered = httpx.get(f"{url}{path}", headers={"X-Request-ID": "mine-2"})
        line = access_line(stream)
    assert answered.headers["X-Request-ID"] == "mine-2"
    assert answered.status_code == line["status"] == status
    assert {line["request_id"] for line in lines(stream)} == {"mine-2"}


def test_what_is_not_http_gets_an_id_too(url):
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(
            b"GET / HTTP/1.1\r\nX-Request-ID: mine-3\r\nHost: x\r\nbad header\r\n\r\n"
        )
        response = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b"x-request-id: mine-3\r\n" in response
