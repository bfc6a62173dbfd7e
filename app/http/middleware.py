"""Middleware of every request: request id, access log and metrics."""

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

REQUEST_ID_HEADER = "X-Request-ID"
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
"""Request ids that are accepted from clients."""
TIMED_OUT = "palettery.timed_out"
"""Key in the scope of a request that the connection answered with 408."""
UNMATCHED = "unmatched"
"""Route in logs and metrics of requests without a route."""
POLLED_ROUTES = frozenset({"/livez", "/readyz", "/metrics"})
"""Routes that are polled all the time; they are logged at level debug."""
LOGGED_URL_BYTES = 200
"""Maximum length of a rejected URL in the log."""

log = logging.getLogger(__name__)


def with_request_log(app: ASGIApp, metrics: Metrics) -> ASGIApp:
    """Return the app wrapped in request ids, access log and metrics."""
    return CorrelationIdMiddleware(
        _RequestLog(app, metrics),
        header_name=REQUEST_ID_HEADER,
        generator=new_request_id,
        validator=is_valid_request_id,
        transformer=None,
    )


def new_request_id() -> str:
    """Return a new request id."""
    return uuid.uuid4().hex


def is_valid_request_id(request_id: str) -> bool:
    """Return whether a client's request id is safe for headers and logs."""
    return REQUEST_ID.fullmatch(request_id) is not None


def request_id_from(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id among the headers of a request that does not reach the app, or a new one."""
    for name, value in headers:
        request_id = value.decode("latin-1")
        if name == REQUEST_ID_HEADER.lower().encode() and is_valid_request_id(request_id):
            return request_id
    return new_request_id()


def log_rejected_request(problem: Problem, url: bytes, request_id: str) -> None:
    """Log a request that does not reach the app, with the start of its URL."""
    path = url.partition(b"?")[0][:LOGGED_URL_BYTES].decode("ascii", "backslashreplace")
    log.info(
        "rejected %s %d: %s",
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
    """Middleware that logs and counts each request at its end."""

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

        start_s = time.perf_counter()
        try:
            await self._app(scope, receive_counted, send_counted)
        except RuntimeError as error:
            # Starlette raises it for an error after the headers; the response is cut off.
            if not status or not isinstance(error.__cause__, PaletteryError):
                raise
        finally:
            seconds = time.perf_counter() - start_s
            self._record(
                scope, 408 if TIMED_OUT in scope else status or 500, seconds, received, sent
            )

    def _record(self, scope: Scope, status: int, seconds: float, received: int, sent: int) -> None:
        method, route = scope["method"], _route_template(scope)
        self._metrics.request(method, route, status, seconds, received, sent)
        level = logging.DEBUG if route in POLLED_ROUTES else logging.INFO
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
                    **_caller_fields(scope),
                },
            )


def _caller_fields(scope: Scope) -> dict[str, str | None]:
    """Return owner and key of an authenticated request for the log."""
    caller: Caller | None = scope.get("state", {}).get("caller")
    return {} if caller is None else {"owner": caller.owner, "key": caller.key_prefix}


def _route_template(scope: Scope) -> str:
    """Return the template of the path, so that metrics are per endpoint, not per job."""
    return str(getattr(scope.get("route"), "path", "")) or UNMATCHED
