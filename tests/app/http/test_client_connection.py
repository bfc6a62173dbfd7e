"""Size limits of request heads, on a real port: oversized requests are rejected early."""

import itertools
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from palettery.app.http.client_connection import HEAD_BYTES
from palettery.app.http.server import build_server
from palettery.app.observability.metrics import Metrics
from palettery.app.settings import Clients

ENDLESS_BYTES = 64 << 20
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def echo(request: Request) -> Response:
    return Response(await request.body())


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    app = Starlette(routes=[Route("/{any:path}", echo, methods=["GET", "POST"])])
    serving = build_server(app, Clients(), Metrics())
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    serving.should_exit = True
    thread.join()


def connected(port: int) -> closing[socket.socket]:
    return closing(socket.create_connection(("127.0.0.1", port), timeout=30))


def sent_until_refused(port: int, start: bytes, repeated: bytes) -> tuple[int, bytes]:
    """Bytes that the server took, and what it response."""
    with connected(port) as connection:
        taken = 0
        try:
            connection.sendall(start)
            for _ in range(ENDLESS_BYTES // len(repeated)):
                connection.sendall(repeated)
                taken += len(repeated)
        except OSError:
            pass  # it closed the connection
        try:
            return taken, connection.recv(1 << 16)
        except ConnectionResetError:
            return taken, b""


@pytest.mark.parametrize(
    ("start", "repeated", "status"),
    [
        (b"GET /", b"x" * 4096, b"414"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA", b"a" * 4096, b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"x" * 4096, b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n" * 700, b"431"),
        (CHUNKED + b"3\r\nabc\r\n0\r\nA: ", b"x" * 4096, b"400"),
        (CHUNKED + b"3\r\nabc\r\n0\r\n", b"A: b\r\n" * 700, b"400"),
        (CHUNKED + b"3;a=", b"x" * 4096, b"400"),
    ],
    ids=["path", "name", "value", "headers", "trailer", "trailers", "chunk extension"],
)
def test_head_that_does_not_end(port, start, repeated, status):
    taken, response = sent_until_refused(port, start, repeated)
    assert taken < ENDLESS_BYTES  # what the kernel buffers on both sides, and not all of it
    assert response[:13] in (b"", b"HTTP/1.1 %b " % status)


LONG = b"x" * HEAD_BYTES


@pytest.mark.parametrize(
    ("request_bytes", "status", "path"),
    [
        (b"GET /" + LONG + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "/" + "x" * 199),
        (b"GET /a?" + LONG + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "/a"),
        (b"POST /v1/jobs?q=%0D%0A" + LONG + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "/v1/jobs"),
        (b"GET http://x/" + LONG + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "http://x/" + "x" * 191),
        (b"GET /b HTTP/1.1\r\nHost: x\r\nA: " + LONG + b"\r\n\r\n", 431, "/b"),
        (b"GET /c HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", 431, "/c"),
        (b"GET /d HTTP/1.1\r\n\r\n", 400, "/d"),
        (b"nonsense\r\n\r\n", 400, ""),
    ],
    ids=["path", "query", "escapes", "absolute", "header", "headers", "no host", "nonsense"],
)
def test_a_request_that_is_refused_is_told_why_and_logged(
    port, caplog, request_bytes, status, path
):
    caplog.set_level("INFO", logger="palettery.app.http.middleware")
    with connected(port) as connection:
        for start in range(0, len(request_bytes), 9_000):
            connection.sendall(request_bytes[start : start + 9_000])
        response = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, body = response.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    problem = json.loads(body)
    assert problem["status"] == status
    assert problem["code"] == {414: "uri_too_long", 431: "headers_too_large"}.get(
        status, "bad_request"
    )
    (line,) = [each for each in caplog.records if getattr(each, "status", None) == status]
    assert (line.path, line.route) == (path, "unmatched")
    assert b"x-request-id: " + line.request_id.encode() in head.lower()


@pytest.mark.parametrize("length", [8_000, HEAD_BYTES - 64])
def test_a_long_address_below_the_limit_is_served(port, length):
    with connected(port) as connection:
        connection.sendall(b"GET /" + b"x" * length + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("step", [1000, 65536])
def test_head_just_below_the_limit_and_a_large_body(port, step):
    body = bytes(range(256)) * 4096
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += b"Content-Length: %d\r\nA: " % len(body)
    head += b"x" * (HEAD_BYTES - len(head) - 4) + b"\r\n\r\n"
    request = head + body
    with connected(port) as connection:
        for first, end in itertools.pairwise([*range(0, len(request), step), len(request)]):
            connection.sendall(request[first:end])
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n" + body)


def test_many_requests_on_one_connection(port):
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        for number in range(40):
            answer = http.post("/", content=str(number), headers={"A": "x" * 4096})
            assert answer.text == str(number)


@pytest.mark.parametrize(
    ("head", "counted"),
    [
        (b"GET /a HTTP/1.1\r\n", 0),
        (b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n", 0),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nhost: y\r\n", 2),
    ],
    ids=["none", "none with a body", "two"],
)
def test_one_host_is_asked_for(port, head, counted):
    """Source: RFC 9112, section 3.2."""
    with connected(port) as connection:
        connection.sendall(head + b"X-Request-ID: my-own\r\n\r\nabc")
        response = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    start, body = response.split(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nx-request-id: my-own\r\n" in start + b"\r\n"
    problem = json.loads(body)
    assert problem["code"] == "bad_request"
    assert f"one Host header, this one has {counted}" in problem["detail"]


@pytest.mark.parametrize(
    "head", [b"GET /a HTTP/1.0\r\n", b"GET /a HTTP/1.1\r\nHost:\r\nConnection: close\r\n"]
)
def test_host_may_be_empty_and_older_clients_have_none(port, head):
    with connected(port) as connection:
        connection.sendall(head + b"\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_second_request_needs_a_host_too(port):
    with connected(port) as connection:
        connection.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /a HTTP/1.1\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
