"""HTTP/1.1 as uvicorn and httptools speak it, with the limits on clients that they lack."""

import asyncio
import contextlib
import fcntl
import heapq
import sys
from collections.abc import Callable
from enum import Enum, auto
from termios import TIOCOUTQ
from typing import Any, Literal

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from palettery.app.errors import RequestTimeout, Unavailable, problem
from palettery.app.http.middleware import HEADER, TIMED_OUT, log_rejected_request, request_id_from
from palettery.app.http.problems import MEDIA_TYPE, http_problem
from palettery.app.http.transfer_rate import TransferRate
from palettery.app.settings import Clients
from palettery.schemas.problem import Problem

HEAD_BYTES = 64 << 10
"""Of a request line with its headers, or of the trailers behind a body; h11's limit too."""
LEAST_LINE_BYTES = len("GET  HTTP/1.1\r\n")
"""Of a request line, beside the address."""
LINGER_S, LINGER_BYTES = 2.0, 4 << 20
"""How long, and for how many bytes, a client may go on to send a head that was refused."""
EVICTED_SHARE = 8
"""One of so many idle connections makes room at once, so that room is not searched each time."""

Reason = Literal["head", "body", "idle", "unread", "full"]
"""Why a connection was given up."""


class Phase(Enum):
    """What a connection waits for."""

    IDLE = auto()
    """A request."""
    HEAD = auto()
    """The rest of its line and headers."""
    BODY = auto()
    """The rest of its body."""
    ANSWER = auto()
    """The application."""


class ClientConnection(HttpToolsProtocol):
    """One connection; `check` gives it up when the client is too slow.

    What the parser keeps until a head is complete is counted as it comes in: no callback tells of
    a header that does not end.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        clients: Clients,
        given_up: Callable[[Reason], None] = lambda _: None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._clients, self._given_up = clients, given_up
        self._held_bytes, self._lingers = 0, False
        self._fault: Problem | None = None
        self._phase, self._since = Phase.IDLE, 0.0
        self._coming, self._going = (
            TransferRate(clients.stall_timeout_s, clients.stall_bytes) for _ in range(2)
        )

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Someone is there."""
        super().connection_made(transport)
        self._enter(Phase.IDLE)
        self._going.restart(self._since)
        if len(self.connections) > self._clients.connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Parse what came in; the callbacks below set the count back."""
        self._held_bytes += len(data)
        if self._lingers:
            if self._held_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        super().data_received(data)
        if self._held_bytes > HEAD_BYTES and not self.transport.is_closing():
            self._refuse(self._too_long(), lingers=True)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._enter(Phase.HEAD)

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._held_bytes = 0
        self._fault = self._head_fault()
        if self._fault is not None:
            raise ValueError(self._fault.detail)  # which ends the parsing, and refuses the request
        self._enter(Phase.BODY)
        self._coming.restart(self._since)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of a body, which goes on to the application."""
        self._held_bytes = 0
        self._coming.move(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete, its trailers too."""
        self._held_bytes = 0
        super().on_message_complete()
        self._enter(Phase.IDLE if self.cycle.response_complete else Phase.ANSWER)

    def on_response_complete(self) -> None:
        """A request is answered; its body may go on nevertheless, or the next may have begun."""
        super().on_response_complete()
        if not self._is_answering:
            self._enter(Phase.IDLE if self._phase is Phase.ANSWER else self._phase)

    def resume_writing(self) -> None:
        """The client has read most of what waited for it."""
        super().resume_writing()
        self._going.restart(self.loop.time())

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(self._fault or http_problem(400, msg), lingers=True)

    def check(self, now: float) -> None:
        """Give the client up if it is too slow; to be called now and then."""
        if self._reads_too_slowly(now):
            self._given_up("unread")
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self._phase is Phase.IDLE and now - self._since > self._clients.keep_alive_s:
            self._given_up("idle")
            self.transport.close()
        elif self._is_answering and self._phase is not Phase.BODY:
            return
        elif self._phase is Phase.HEAD and now - self._since > self._clients.head_timeout_s:
            self._time_out("head", f"no whole head within {self._clients.head_timeout_s:g} s")
        elif self._phase is Phase.BODY and self._sends_too_slowly(now):
            least = f"{self._clients.stall_bytes:,} bytes in {self._clients.stall_timeout_s:g} s"
            self._time_out("body", f"less than {least} of the body came in; send it faster")

    def _head_fault(self) -> Problem | None:
        """What is wrong with a complete head; None if it can be served."""
        headers_bytes = sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.url) + LEAST_LINE_BYTES + headers_bytes > HEAD_BYTES:
            return self._too_long()
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts != 1 and self.parser.get_http_version() == "1.1":
            told = f"A request of HTTP/1.1 has one Host header, this one {hosts}; send one."
            return http_problem(400, told)
        return None

    def _too_long(self) -> Problem:
        """What of a request has more than `HEAD_BYTES`."""
        if self._phase is Phase.HEAD and len(self.url) + LEAST_LINE_BYTES > HEAD_BYTES:
            return http_problem(
                414, f"the request line has over {HEAD_BYTES:,} bytes; send a shorter address"
            )
        if self._phase is Phase.HEAD:
            return http_problem(431, f"the headers have over {HEAD_BYTES:,} bytes; send fewer")
        return http_problem(400, f"over {HEAD_BYTES:,} bytes between two pieces of the body")

    def _sends_too_slowly(self, now: float) -> bool:
        """Whether the body stands still, and not for us."""
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:
            self._coming.restart(now)
        return self._coming.is_slow(now)

    def _reads_too_slowly(self, now: float) -> bool:
        waiting_bytes = self.transport.get_write_buffer_size()
        if waiting_bytes == 0:
            self._going.restart(now)
            return False
        self._going.wait(waiting_bytes + self._queued_bytes())
        return self._going.is_slow(now)

    def _queued_bytes(self) -> int:
        """What the kernel has not sent yet.

        It takes more from us only once a third of its room is free; a slow line may take longer
        for that than it may stand still.
        """
        queued = bytearray(4)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), TIOCOUTQ, queued)
        return int.from_bytes(queued, sys.byteorder)

    def _time_out(self, reason: Reason, detail: str) -> None:
        self._given_up(reason)
        if reason == "body":
            self.scope[TIMED_OUT] = True  # type: ignore[literal-required]
        self._refuse(problem(RequestTimeout(detail)))

    def _make_room(self) -> None:
        """Give up connections that do nothing, those that never asked first; or else this one."""
        others = [
            other
            for other in self.connections
            if isinstance(other, ClientConnection)
            and other is not self
            and not other.transport.is_closing()
        ]
        if len(others) < self._clients.connections:
            return
        idle = [other for other in others if other.is_idle]
        most = max(1, len(idle) // EVICTED_SHARE)
        for other in heapq.nsmallest(most, idle, key=lambda each: each.worth):
            self._given_up("full")
            other.transport.abort()
        if not idle:
            self._given_up("full")
            full = f"{len(others):,} connections are open, the most allowed; try again later"
            self._refuse(problem(Unavailable(full)))

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer; the body of a request that has its may come in."""
        return not self._is_answering

    @property
    def worth(self) -> tuple[bool, float]:
        """Order in which idle connections make room: first those that never asked for anything."""
        return self.cycle is not None, self._since

    @property
    def _is_answering(self) -> bool:
        return bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    def _enter(self, phase: Phase) -> None:
        self._phase, self._since = phase, self.loop.time()

    def _refuse(self, told: Problem, *, lingers: bool = False) -> None:
        """Answer and hang up; where an answer is under way or was given, just hang up.

        A connection that is closed with bytes unread is reset, and its client may not see the
        answer: with `lingers`, what comes in is dropped for a moment first.
        """
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self.pipeline or cycle.response_started:
                self.transport.abort()
                return
            cycle.disconnected = True  # what the application says from now on goes nowhere
            cycle.message_event.set()
        elif self._phase is Phase.BODY:
            self.transport.close()
            return
        self.transport.write(self._answer(told))
        if lingers and self.transport.can_write_eof():
            self._lingers = True
            self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()

    def _answer(self, told: Problem) -> bytes:
        """A problem as bytes; logged here, unless the application has the request."""
        is_idle = self._phase is Phase.IDLE
        # The middleware puts the id that it makes among the scope's own headers.
        request_id = request_id_from([] if is_idle else self.scope["headers"])
        if self._phase is not Phase.BODY:
            log_rejected_request(told, b"" if is_idle else self.url, request_id)
        body = told.model_dump_json(exclude_none=True).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (HEADER.lower().encode(), request_id.encode()),
        ]
        lines = [STATUS_LINE[told.status], *(b"%b: %b\r\n" % header for header in headers)]
        return b"".join([*lines, b"\r\n", body])
