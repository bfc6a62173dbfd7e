"""What surrounds every request: its id, a line in the log, and its share of the numbers."""

import logging
import re
import time
import uuid
from collections.abc import Iterable

from asgi_correlation_id import CorrelationIdMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from palettery.app.errors import PaletteryError
from palettery.app.http.caller import Caller
from palettery.app.observability.metrics import Metrics
from palettery.schemas.problem import Problem

HEADER = "X-Request-ID"
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
"""Ids that are taken over from clients."""
TIMED_OUT = "palettery.timed_out"
"""Mark in the scope of a request that the protocol has answered with 408."""
UNMATCHED = "unmatched"
"""Stands for the route of whatever no route takes."""
QUIET = frozenset({"/livez", "/readyz", "/metrics"})
"""Routes that are asked all day long; their lines have the level debug."""

MOST_SHOWN = 200
"""Bytes of an address that is refused."""

log = logging.getLogger(__name__)


def with_request_log(app: ASGIApp, metrics: Metrics) -> ASGIApp:
    """The app, with all of this around it."""
    return CorrelationIdMiddleware(
        _RequestLog(app, metrics),
        header_name=HEADER,
        generator=new_request_id,
        validator=is_valid_request_id,
        transformer=None,
    )


def new_request_id() -> str:
    """An id for a request that has none."""
    return uuid.uuid4().hex


def is_valid_request_id(request_id: str) -> bool:
    """Whether an id may be written into headers and logs."""
    return REQUEST_ID.fullmatch(request_id) is not None


def request_id_from(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id of a request that does not reach the app; a new one if it has none."""
    for name, value in headers:
        if name == HEADER.lower().encode() and is_valid_request_id(
            found := value.decode("latin-1")
        ):
            return found
    return new_request_id()


def log_rejected_request(problem: Problem, url: bytes, request_id: str) -> None:
    """Log a request that does not reach the app; of its address, which may be long, the start."""
    path = url.partition(b"?")[0][:MOST_SHOWN].decode("ascii", "backslashreplace")
    log.info(
        "refused %s %d: %s",
        path or "a request",
        problem.status,
        problem.detail,
        extra={
            "path": path,
            "route": UNMATCHED,
            "status": problem.status,
            "request_id": request_id,
        },
    )


class _RequestLog:
    """Notes each request when it ends, however it does."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = received = sent = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def send_counted(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive_counted, send_counted)
        except RuntimeError as error:
            # So Starlette tells of an error behind the headers: the connection breaks off.
            if not status or not isinstance(error.__cause__, PaletteryError):
                raise
        finally:
            seconds = time.perf_counter() - began
            self._note(scope, 408 if TIMED_OUT in scope else status or 500, seconds, received, sent)

    def _note(self, scope: Scope, status: int, seconds: float, received: int, sent: int) -> None:
        method, route = scope["method"], _route(scope)
        self._metrics.request(method, route, status, seconds, received, sent)
        level = logging.DEBUG if route in QUIET else logging.INFO
        if log.isEnabledFor(level):
            log.log(
                level,
                "%s %s %d",
                method,
                scope["path"],
                status,
                extra={
                    "method": method,
                    "path": scope["path"],
                    "route": route,
                    "status": status,
                    "ms": round(seconds * 1_000, 2),
                    "received_bytes": received,
                    "sent_bytes": sent,
                    **_caller(scope),
                },
            )


def _caller(scope: Scope) -> dict[str, str | None]:
    """Who asked, and with what key, if that was found out."""
    caller: Caller | None = scope.get("state", {}).get("caller")
    return {} if caller is None else {"owner": caller.owner, "key": caller.key_prefix}


def _route(scope: Scope) -> str:
    """The template of the path, so that numbers are per endpoint and not per job."""
    found = getattr(scope.get("route"), "path", "")
    return str(found) or UNMATCHED
