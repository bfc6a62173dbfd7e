"""HTTP/1.1 connection of uvicorn and httptools, with timeouts and size limits for clients."""

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
from palettery.app.http.middleware import (
    REQUEST_ID_HEADER,
    TIMED_OUT,
    log_rejected_request,
    request_id_from,
)
from palettery.app.http.problems import MEDIA_TYPE, http_problem
from palettery.app.http.transfer_rate import TransferRate
from palettery.app.settings import Clients
from palettery.schemas.problem import Problem

HEAD_BYTES = 64 << 10
"""Maximum size of a request line with headers, or of the trailers; the same as h11's limit."""
MINIMAL_LINE_BYTES = len("GET  HTTP/1.1\r\n")
"""Minimum size of a request line in addition to the URL."""
LINGER_S, LINGER_BYTES = 2.0, 4 << 20
"""Maximum time and bytes for which input is discarded after a request was rejected."""
EVICTION_DIVISOR = 8
"""One in so many idle connections is evicted at a time, so that evictions are rare."""

Reason = Literal["head", "body", "idle", "unread", "full"]
"""Reason for which the server closed a connection."""


class Phase(Enum):
    """Part of a request or response that a connection is waiting for."""

    IDLE = auto()
    """Start of the next request."""
    HEAD = auto()
    """Rest of the request line and headers."""
    BODY = auto()
    """Rest of the request's body."""
    RESPONSE = auto()
    """The application's response."""


class ClientConnection(HttpToolsProtocol):
    """One client connection; `check` closes it if the client is too slow.

    Bytes are counted on receipt until the head is complete, because the parser has no callback for
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
        on_close: Callable[[Reason], None] = lambda _: None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._clients, self._on_close = clients, on_close
        self._head_bytes, self._discards_input = 0, False
        self._rejection: Problem | None = None
        self._phase, self._phase_since = Phase.IDLE, 0.0
        self._received, self._sent = (
            TransferRate(clients.stall_timeout_s, clients.stall_bytes) for _ in range(2)
        )

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the idle timeout, and evict others if there are too many connections."""
        super().connection_made(transport)
        self._enter_phase(Phase.IDLE)
        self._sent.restart(self._phase_since)
        if len(self.connections) > self._clients.connections:
            self._evict_idle()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; the callbacks below reset the count of head bytes."""
        self._head_bytes += len(data)
        if self._discards_input:
            if self._head_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        super().data_received(data)
        if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self._reject(self._too_long(), discard_input=True)

    def on_message_begin(self) -> None:
        """Start the timeout of the head."""
        super().on_message_begin()
        self._enter_phase(Phase.HEAD)

    def on_headers_complete(self) -> None:
        """Check the complete head, and start the timeout of the body."""
        self._head_bytes = 0
        self._rejection = self._check_head()
        if self._rejection is not None:
            # Ends the parsing, and calls `send_400_response`.
            raise ValueError(self._rejection.detail)
        self._enter_phase(Phase.BODY)
        self._received.restart(self._phase_since)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count bytes of the body."""
        self._head_bytes = 0
        self._received.move(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the response, or for the next request."""
        self._head_bytes = 0
        super().on_message_complete()
        self._enter_phase(Phase.IDLE if self.cycle.response_complete else Phase.RESPONSE)

    def on_response_complete(self) -> None:
        """Wait for the next request, unless the body continues or the next one has begun."""
        super().on_response_complete()
        if not self._is_responding:
            self._enter_phase(Phase.IDLE if self._phase is Phase.RESPONSE else self._phase)

    def resume_writing(self) -> None:
        """Restart the window of sent bytes, because the client has read most of the backlog."""
        super().resume_writing()
        self._sent.restart(self.loop.time())

    def send_400_response(self, msg: str) -> None:
        """Reject a request that is malformed or over a limit."""
        self._reject(self._rejection or http_problem(400, msg), discard_input=True)

    def check(self, now: float) -> None:
        """Close the connection if the client is too slow; called periodically."""
        if self._reads_too_slowly(now):
            self._on_close("unread")
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self._phase is Phase.IDLE and now - self._phase_since > self._clients.keep_alive_s:
            self._on_close("idle")
            self.transport.close()
        elif self._is_responding and self._phase is not Phase.BODY:
            return
        elif self._phase is Phase.HEAD and now - self._phase_since > self._clients.head_timeout_s:
            self._time_out(
                "head",
                f"the request headers were incomplete after {self._clients.head_timeout_s:g} s",
            )
        elif self._phase is Phase.BODY and self._sends_too_slowly(now):
            minimum = f"{self._clients.stall_bytes:,} bytes in {self._clients.stall_timeout_s:g} s"
            self._time_out("body", f"the body was slower than {minimum}; send it faster")

    def _check_head(self) -> Problem | None:
        """Return the problem of a complete head; None if it is valid."""
        headers_bytes = sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.url) + MINIMAL_LINE_BYTES + headers_bytes > HEAD_BYTES:
            return self._too_long()
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts != 1 and self.parser.get_http_version() == "1.1":
            detail = f"an HTTP/1.1 request needs exactly one Host header, this one has {hosts}"
            return http_problem(400, detail)
        return None

    def _too_long(self) -> Problem:
        """Return the problem of a request with more than `HEAD_BYTES`."""
        if self._phase is Phase.HEAD and len(self.url) + MINIMAL_LINE_BYTES > HEAD_BYTES:
            return http_problem(
                414, f"the request line has over {HEAD_BYTES:,} bytes; send a shorter URL"
            )
        if self._phase is Phase.HEAD:
            return http_problem(431, f"the headers have over {HEAD_BYTES:,} bytes; send fewer")
        return http_problem(400, f"over {HEAD_BYTES:,} bytes between two chunks of the body")

    def _sends_too_slowly(self, now: float) -> bool:
        """Return whether the client, not the application, stalls the body."""
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:
            self._received.restart(now)
        return self._received.is_slow(now)

    def _reads_too_slowly(self, now: float) -> bool:
        buffered_bytes = self.transport.get_write_buffer_size()
        if buffered_bytes == 0:
            self._sent.restart(now)
            return False
        self._sent.set_backlog(buffered_bytes + self._unsent_bytes())
        return self._sent.is_slow(now)

    def _unsent_bytes(self) -> int:
        """Return how many bytes the kernel has not sent yet.

        It accepts more only once a third of its buffer is free, which may take a slow client longer
        than the stall timeout.
        """
        unsent = bytearray(4)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), TIOCOUTQ, unsent)
        return int.from_bytes(unsent, sys.byteorder)

    def _time_out(self, reason: Reason, detail: str) -> None:
        self._on_close(reason)
        if reason == "body":
            self.scope[TIMED_OUT] = True  # type: ignore[literal-required]
        self._reject(problem(RequestTimeout(detail)))

    def _evict_idle(self) -> None:
        """Close idle connections, first those without any request; if there are none, this one."""
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
        evictions = max(1, len(idle) // EVICTION_DIVISOR)
        for other in heapq.nsmallest(
            evictions, idle, key=lambda connection: connection.eviction_order
        ):
            self._on_close("full")
            other.transport.abort()
        if not idle:
            self._on_close("full")
            detail = f"{len(others):,} connections are open, the limit; try again later"
            self._reject(problem(Unavailable(detail)))

    @property
    def is_idle(self) -> bool:
        """Return whether no response is pending; a body may still come in after its response."""
        return not self._is_responding

    @property
    def eviction_order(self) -> tuple[bool, float]:
        """Sort key of evictions: connections without any request come first."""
        return self.cycle is not None, self._phase_since

    @property
    def _is_responding(self) -> bool:
        return bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    def _enter_phase(self, phase: Phase) -> None:
        self._phase, self._phase_since = phase, self.loop.time()

    def _reject(self, problem: Problem, *, discard_input: bool = False) -> None:
        """Send a problem and close; only close if a response is in progress or was sent.

        Closing with unread bytes resets the connection, and the client may miss the response: with
        `discard_input`, received bytes are discarded for a moment first.
        """
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self.pipeline or cycle.response_started:
                self.transport.abort()
                return
            cycle.disconnected = True  # discards what the application still sends
            cycle.message_event.set()
        elif self._phase is Phase.BODY:
            self.transport.close()
            return
        self.transport.write(self._response(problem))
        if discard_input and self.transport.can_write_eof():
            self._discards_input = True
            self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()

    def _response(self, problem: Problem) -> bytes:
        """Return a problem as bytes, and log it unless the application logs the request."""
        is_idle = self._phase is Phase.IDLE
        # The middleware adds a new id to the headers of the scope.
        request_id = request_id_from([] if is_idle else self.scope["headers"])
        if self._phase is not Phase.BODY:
            log_rejected_request(problem, b"" if is_idle else self.url, request_id)
        body = problem.model_dump_json(exclude_none=True).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (REQUEST_ID_HEADER.lower().encode(), request_id.encode()),
        ]
        lines = [STATUS_LINE[problem.status], *(b"%b: %b\r\n" % header for header in headers)]
        return b"".join([*lines, b"\r\n", body])
