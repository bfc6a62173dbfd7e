"""HEAD for every endpoint with GET: the same response without its body.

Source: RFC 9110, sections 9.3.2 (HEAD) and 14.2 (Range is for GET alone).
"""

from anyio import CancelScope, sleep_forever
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RANGE_HEADERS = (b"range", b"if-range")


class HeadAsGet:
    """Middleware that handles HEAD as GET, and cancels the endpoint before it produces the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self._app(scope, receive, send)
        headers = [(name, value) for name, value in scope["headers"] if name not in RANGE_HEADERS]
        get = {**scope, "method": "GET", "headers": headers}

        async def send_head(message: Message) -> None:
            await send(message)
            await send({"type": "http.response.body"})
            endpoint.cancel()
            await sleep_forever()

        with CancelScope() as endpoint:
            try:
                await self._app(get, receive, send_head)
            finally:
                if "route" in get:  # the log and the metrics count by route
                    scope["route"] = get["route"]
