"""Slow and idle clients on real sockets: they are disconnected in time, and no others are."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from palettery.app.http.server import build_server
from palettery.app.observability.metrics import Metrics
from palettery.app.settings import Clients

DEADLINE_S = 20
PACE_S = 0.05
ENDLESS = b"x" * (1 << 20)
LEFT = "left"


class Service:
    """A server of endpoints that wait, send without end, and tell how requests ended."""

    def __init__(self) -> None:
        self.port = 0
        self.metrics = Metrics()
        self.ended: list[str] = []
        self.release = threading.Event()
        self.app = Starlette(
            routes=[
                Route("/echo", self.echo, methods=["GET", "POST"]),
                Route("/late", self.late, methods=["POST"]),
                Route("/early", self.early, methods=["POST"]),
                Route("/block", self.block),
                Route("/endless", self.endless),
            ]
        )

    async def echo(self, request: Request) -> Response:
        try:
            return Response(str(len(await request.body())))
        except ClientDisconnect:
            self.ended.append(LEFT)
            raise

    async def late(self, request: Request) -> Response:
        await asyncio.to_thread(self.release.wait, DEADLINE_S)
        return Response(str(len(await request.body())))

    async def early(self, _: Request) -> Response:
        return Response("no", 413)

    async def block(self, _: Request) -> Response:
        return Response(ENDLESS[:50_000])

    async def endless(self, _: Request) -> Response:
        async def pieces():
            try:
                while True:
                    await asyncio.sleep(0)  # as one that reads from somewhere does
                    yield ENDLESS
            finally:
                self.ended.append(LEFT)

        return StreamingResponse(pieces())

    def closed(self, reason: str) -> float:
        """Connections given up for this."""
        name = "palettery_http_closed_connections_total"
        return self.metrics.registry.get_sample_value(name, {"reason": reason}) or 0


@contextmanager
def serving(**clients: float) -> Iterator[Service]:
    service = Service()
    made = build_server(service.app, Clients(**clients), service.metrics)
    listening = socket.create_server(("127.0.0.1", 0))
    service.port = listening.getsockname()[1]
    thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]})
    thread.start()
    wait_until(lambda: made.started, "the server is up")
    try:
        yield service
    finally:
        service.release.set()
        made.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def impatient() -> Iterator[Service]:
    with serving(
        head_timeout_s=0.6, keep_alive_s=1.2, stall_timeout_s=1.5, stall_bytes=20_000
    ) as service:
        yield service


def wait_until(is_so: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < end, f"{what}: not within {DEADLINE_S} s"
        time.sleep(0.01)


def connected(service: Service) -> closing[socket.socket]:
    connection = socket.create_connection(("127.0.0.1", service.port))
    connection.settimeout(DEADLINE_S)
    return closing(connection)


def rest(connection: socket.socket) -> bytes:
    """All that the server says until it hangs up."""
    connection.settimeout(DEADLINE_S)
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            received += piece
    return received


def trickled(connection: socket.socket, piece: bytes) -> bytes:
    """What the server says to someone who goes on sending pieces, but slowly."""
    connection.settimeout(PACE_S)
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        try:
            connection.sendall(piece)
            return connection.recv(1 << 16)
        except TimeoutError:
            continue
        except OSError:
            return b""
    raise AssertionError("the server is still patient")


def post(path: bytes, length: int, more: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n" % (path, length, more)


def problem_of(response: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and problem of an answer."""
    head, body = response.split(b"\r\n\r\n", 1)
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    problem = json.loads(body)
    assert first.startswith(f"HTTP/1.1 {problem['status']} ")
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    return headers, problem


@pytest.mark.parametrize(
    "start", [b"GET /", b"GET /echo HTTP/1.1\r\nX-A: "], ids=["line", "header"]
)
def test_head_that_trickles(impatient, start):
    before = impatient.closed("head")
    with connected(impatient) as connection:
        connection.sendall(start)
        headers, problem = problem_of(trickled(connection, b"x"))
    assert problem["code"] == "request_timeout"
    assert headers["x-request-id"]
    assert impatient.closed("head") == before + 1


@pytest.mark.heavy
def test_connection_that_says_nothing(impatient):
    before = impatient.closed("idle")
    with connected(impatient) as connection:
        assert rest(connection) == b""
    assert impatient.closed("idle") == before + 1


@pytest.mark.heavy
def test_empty_lines_are_no_request(impatient):
    with connected(impatient) as connection:
        assert trickled(connection, b"\r\n") == b""


@pytest.mark.heavy
def test_connection_kept_alive_is_closed_in_the_end(impatient):
    with connected(impatient) as connection:
        connection.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (post(b"/echo", 1_000_000, b"X-Request-ID: my-own\r\n"), b"x"),
        (
            b"POST /echo HTTP/1.1\r\nHost: x\r\nX-Request-ID: my-own\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n",
        ),
    ],
    ids=["announced", "chunked"],
)
def test_body_that_trickles(impatient, head, piece):
    impatient.ended.clear()
    with connected(impatient) as connection:
        connection.sendall(head)
        headers, problem = problem_of(trickled(connection, piece))
    assert problem["code"] == "request_timeout"
    assert "20,000 bytes in 1.5 s" in problem["detail"]
    assert headers["x-request-id"] == "my-own"
    wait_until(lambda: impatient.ended == [LEFT], "the endpoint hears of it")


@pytest.mark.heavy
def test_body_that_stands_still(impatient):
    with connected(impatient) as connection:
        connection.sendall(post(b"/echo", 1_000_000) + b"x" * 500_000)
        _, problem = problem_of(rest(connection))
    assert problem["code"] == "request_timeout"


@pytest.mark.heavy
def test_body_after_the_answer_that_trickles(impatient):
    """The answer is there already, so that all that is left is to hang up."""
    with connected(impatient) as connection:
        connection.sendall(post(b"/early", 1_000_000))
        response = b"".join(iter(lambda: trickled(connection, b"x"), b""))
    assert response.startswith(b"HTTP/1.1 413 ")


@pytest.mark.heavy
def test_reader_that_stops_reading(impatient):
    impatient.ended.clear()
    before = impatient.closed("unread")
    with connected(impatient) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1 << 10).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: impatient.ended == [LEFT], "the endpoint stops sending")
    assert impatient.closed("unread") == before + 1


@pytest.mark.heavy
def test_reader_of_small_answers_that_stops_reading(impatient):
    """Many answers, each of which fits into a buffer."""
    before = impatient.closed("unread")
    with connected(impatient) as connection:
        connection.sendall(b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000)
        wait_until(lambda: impatient.closed("unread") == before + 1, "it is given up")


@pytest.fixture(scope="module")
def patient() -> Iterator[Service]:
    """Fast enough for a test that waits for a few of its windows."""
    with serving(head_timeout_s=2, keep_alive_s=2, stall_timeout_s=2, stall_bytes=2_000) as service:
        yield service


@pytest.mark.heavy
def test_slow_line_passes(patient):
    """A body that takes far longer than the window, at about ten times the least rate."""
    size, step = 30_000, 1_000
    began = time.monotonic()
    with connected(patient) as connection:
        connection.sendall(post(b"/echo", size, b"Connection: close\r\n"))
        for _ in range(0, size, step):
            connection.sendall(b"x" * step)
            connection.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                assert connection.recv(1, socket.MSG_PEEK), "hung up on"
                break
        assert rest(connection).endswith(b"\r\n\r\n30000")
    assert time.monotonic() - began > 2


@pytest.mark.heavy
def test_endpoint_that_reads_late_is_not_the_clients_fault(patient):
    patient.release.clear()
    body = b"x" * 1_000_000
    response = []
    with connected(patient) as connection:

        def send() -> None:
            connection.sendall(post(b"/late", len(body), b"Connection: close\r\n") + body)
            response.append(rest(connection))

        sending = threading.Thread(target=send)
        sending.start()
        with connected(patient) as other:
            assert rest(other) == b""  # which takes as long as the client is waited for
        with connected(patient) as other:
            assert rest(other) == b""
        patient.release.set()
        sending.join()
    assert response[0].endswith(b"\r\n\r\n1000000")


@pytest.mark.heavy
def test_client_that_waits_to_be_told_to_go_on(patient):
    """`Expect: 100-continue`, and an endpoint that takes its time to say so."""
    patient.release.clear()
    with connected(patient) as connection:
        connection.sendall(post(b"/late", 3, b"Expect: 100-continue\r\nConnection: close\r\n"))
        for _ in range(2):
            with connected(patient) as other:
                assert rest(other) == b""
        patient.release.set()
        assert connection.recv(1 << 10).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        assert rest(connection).endswith(b"\r\n\r\n3")


@pytest.mark.heavy
def test_next_head_may_wait_for_the_answer_before(patient):
    """Pipelined: the time to send a head begins when its turn comes."""
    patient.release.clear()
    with connected(patient) as connection:
        connection.sendall(post(b"/late", 0) + b"GET /echo HTTP/1.1\r\nHost: x\r\nConn")
        for _ in range(2):
            with connected(patient) as other:
                assert rest(other) == b""
        patient.release.set()
        connection.sendall(b"ection: close\r\n\r\n")
        answers = rest(connection)
    assert answers.count(b"HTTP/1.1 200 ") == 2


@pytest.mark.heavy
def test_slow_reader_passes(patient):
    """One that takes longer for a piece of a response than it may stand still."""
    before = patient.closed("unread")
    with closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        connection.settimeout(DEADLINE_S)
        connection.connect(("127.0.0.1", patient.port))
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        end = time.monotonic() + 6
        while time.monotonic() < end:
            assert connection.recv(1 << 13)
            time.sleep(PACE_S)
    assert patient.closed("unread") == before


def test_idle_connections_make_room():
    with serving(connections=40) as service, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(service)) for _ in range(300)]
        answer = httpx.get(f"http://127.0.0.1:{service.port}/echo")
        assert answer.text == "0"
        assert service.closed("full") >= 200
        assert len(idle) == 300


def test_bodies_after_the_answer_make_room():
    """Those that were answered alone; an upload that is under way goes on."""
    with serving(connections=8) as service, contextlib.ExitStack() as stack:
        upload, *refused = [stack.enter_context(connected(service)) for _ in range(8)]
        upload.sendall(post(b"/echo", 2, b"Connection: close\r\n") + b"x")
        for connection in refused:
            connection.sendall(post(b"/early", 100_000_000) + b"x")
            assert connection.recv(1 << 10).startswith(b"HTTP/1.1 413 ")
        for connection in refused:
            connection.sendall(b"x" * 2_000)
        for _ in refused:
            one_more = stack.enter_context(connected(service))
            one_more.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            assert one_more.recv(1 << 10).startswith(b"HTTP/1.1 200 ")
        assert service.closed("full") == len(refused)
        upload.sendall(b"x")
        assert rest(upload).endswith(b"\r\n\r\n2")


def test_connections_that_all_work_leave_no_room():
    with serving(connections=20) as service, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(connected(service)) for _ in range(20)]
        for connection in busy:
            connection.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1 << 10).startswith(b"HTTP/1.1 200 ")
        with connected(service) as one_more:
            _, problem = problem_of(rest(one_more))
        assert problem["code"] == "unavailable"
        busy.pop().close()

        def is_served() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{service.port}/echo").is_success
            return False

        wait_until(is_served, "there is room again")
