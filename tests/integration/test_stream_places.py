"""Event streams over HTTP: so many of one owner and of all, and room for requests beside them."""

import contextlib
import json
import socket
import struct
import time
from urllib.parse import urlsplit

import httpx
import pytest

from tests.integration.conftest import ADMIN_KEY
from tests.integration.embedded import serving
from tests.integration.service import DEADLINE_S

pytestmark = pytest.mark.heavy

OF_OWNER, CONNECTIONS = 3, 10
LIVE = "/v1/events"
MANY = 120


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A server with few places, whose jobs stay queued."""
    with serving(
        tmp_path_factory.mktemp("places") / "data",
        workers=1,
        PALETTERY_ADMIN_KEY=ADMIN_KEY,
        PALETTERY_POLL_S="3600",
        PALETTERY_CLIENTS_OWNER_STREAMS=str(OF_OWNER),
        PALETTERY_CLIENTS_CONNECTIONS=str(CONNECTIONS),
    ) as running:
        yield running


class Owner:
    """Somebody with a key, who opens streams on connections of their own."""

    def __init__(self, server, name, opened):
        self._server, self._opened = server, opened
        answer = self.ask("POST", "/v1/keys", ADMIN_KEY, json={"owner": name, "name": "test"})
        self._key = answer.json()["secret"]

    def ask(self, method, path, key=None, **request):
        headers = {"Authorization": f"Bearer {key or self._key}", "Connection": "close"}
        url = f"{self._server.http.base_url}{path}"
        answer = httpx.request(method, url, headers=headers, timeout=DEADLINE_S, **request)
        return answer.raise_for_status()

    def submit(self, model):
        files = {"model": ("m.safetensors", model)}
        return self.ask("POST", "/v1/jobs", files=files, data={"preset": "w4"}).json()["id"]

    def open(self, path=LIVE):
        """A stream's connection and status, once its head has come."""
        address = urlsplit(str(self._server.http.base_url))
        made = socket.create_connection((address.hostname, address.port), timeout=DEADLINE_S)
        connection = self._opened.enter_context(contextlib.closing(made))
        key = f"Authorization: Bearer {self._key}"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{key}\r\n\r\n".encode())
        message = b""
        while b"\r\n\r\n" not in message:
            piece = connection.recv(1 << 16)
            assert piece, message
            message += piece
        return connection, message

    def is_let_in(self, path=LIVE):
        connection, message = self.open(path)
        if message.startswith(b"HTTP/1.1 200 "):
            return True
        connection.close()
        return False


@pytest.fixture
def owner(narrow):
    with contextlib.ExitStack() as opened:
        yield lambda name: Owner(narrow, name, opened)


def until(is_so, what):
    end = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def refusal(owner, path=LIVE):
    """Why a stream was refused."""
    connection, message = owner.open(path)
    head, body = message.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 429 "), head
    assert b"\r\nretry-after: 5\r\n" in head.lower() + b"\r\n"
    assert b"application/problem+json" in head
    length = next(line for line in head.lower().split(b"\r\n") if b"content-length" in line)
    while len(body) < int(length.split(b": ")[1]):
        body += connection.recv(1 << 16)
    connection.close()
    document = json.loads(body)
    assert document["code"] == "too_many_streams"
    return document["detail"]


def test_owner_has_so_many_streams_of_both_kinds_and_others_have_theirs(narrow, owner, model):
    one, other = owner("one"), owner("other")
    job = f"/v1/jobs/{one.submit(model)}/events"
    streams = [one.open(path)[0] for path in (LIVE, job, job)]
    for path in (LIVE, job):
        assert f"has {OF_OWNER} event streams open here, and may have {OF_OWNER}" in refusal(
            one, path
        )
    assert other.is_let_in()
    assert narrow.http.get("/livez").is_success
    assert one.ask("GET", "/v1/jobs").is_success
    streams[0].close()
    until(lambda: one.is_let_in(job), "a stream that is closed makes room")
    refusal(one)
    streams[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    streams[1].close()
    until(one.is_let_in, "one that is cut off makes room")
    refusal(one)


def test_streams_that_end_with_their_job_or_are_refused_make_room(owner, model):
    one = owner("ending")
    job = one.submit(model)
    path = f"/v1/jobs/{job}/events"
    for _ in range(OF_OWNER):
        assert one.is_let_in(path)
    refusal(one)
    one.ask("POST", f"/v1/jobs/{job}/cancel")
    until(one.is_let_in, "the end of the job ends its streams")
    for _ in range(OF_OWNER * 2):  # none of these stays
        assert one.open(f"{path}?after=9999")[1].startswith(b"HTTP/1.1 204 ")
        assert one.open("/v1/jobs/x/events")[1].startswith(b"HTTP/1.1 404 ")
        assert one.open(f"{path}?after=x")[1].startswith(b"HTTP/1.1 422 ")
    for _ in range(OF_OWNER - 1):
        until(one.is_let_in, "all others are free")
    refusal(one)


def test_streams_of_all_leave_connections_to_requests(narrow, owner):
    one, other = owner("first"), owner("second")
    for _ in range(OF_OWNER):
        until(one.is_let_in, "those of other tests are closed")
    for _ in range(CONNECTIONS // 2 - OF_OWNER):
        until(other.is_let_in, "those of other tests are closed")
    assert f"{CONNECTIONS // 2} event streams are open here, the most allowed" in refusal(other)
    for _ in range(MANY):
        other.open()  # each on a connection that stays open
    assert narrow.http.get("/livez").is_success
    assert other.ask("GET", "/v1/jobs").is_success


def test_streams_of_nobody_take_no_place(narrow, owner):
    for _ in range(CONNECTIONS):
        assert narrow.http.get(LIVE).status_code == 401
    until(owner("third").is_let_in, "a place is free")


def test_refusal_is_documented(narrow):
    paths = narrow.http.get("/openapi.json").json()["paths"]
    for path in (LIVE, "/v1/jobs/{job_id}/events"):
        assert "429" in paths[path]["get"]["responses"]
