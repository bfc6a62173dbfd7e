"""A server that answers what a test says, over real connections."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tenacity import wait_none

from palettery.app.client import Client, retries
from palettery.app.errors import PaletteryError, problem


@dataclass(frozen=True)
class Answer:
    """One answer; `lost` cuts the connection instead of giving it, `sent_bytes` in its midst."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    lost: bool = False
    sent_bytes: int | None = None


def error_answer(error: PaletteryError, **headers: str) -> Answer:
    """The answer that the service gives for an error."""
    body = problem(error)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(body.status, body.model_dump_json().encode(), named)


@dataclass
class Scripted:
    """The server: gives its answers in turn, the last one again and again."""

    url: str
    answers: list[Answer | Callable[[dict[str, str]], Answer]] = field(default_factory=list)
    """What to answer, or what gives that for the headers of a request."""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Request line without the version, and headers, of each request so far."""

    def request_lines(self) -> list[str]:
        return [line for line, _ in self.requests]

    def next(self) -> Answer | Callable[[dict[str, str]], Answer]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.requests.append((f"{self.command} {self.path}", dict(self.headers)))
            answer = script.next()
            if callable(answer):
                answer = answer(script.requests[-1][1])
            if answer.lost:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body[: answer.sent_bytes])
            self.close_connection = answer.sent_bytes is not None

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - as http.server names them

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script = Scripted(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield script
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(scripted, monkeypatch) -> Iterator[Client]:
    """A client of that server which does not wait before it tries again."""
    monkeypatch.setattr(retries, "WAIT", wait_none())
    with Client(scripted.url, attempts=4) as opened:
        yield opened
