"""The API in this process, with its own database and object store; no jobs run."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from palettery.app.http.services import lifespan_state
from palettery.app.keys.repository import KeyRepository
from palettery.app.keys.service import KeyService
from palettery.app.main import create_app
from palettery.app.roles.api import api_services
from palettery.app.roles.shared_services import shared_services
from palettery.app.settings import Settings


class _Waiting(httpx.BaseTransport):
    """Requests of code that waits, answered on another thread's event loop."""

    def __init__(self, portal: BlockingPortal, asgi: httpx.ASGITransport) -> None:
        self._portal, self._asgi = portal, asgi

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def answered() -> httpx.Response:
            answer = await self._asgi.handle_async_request(request)
            body = httpx.ByteStream(b"".join([piece async for piece in answer.aiter_raw()]))
            return httpx.Response(answer.status_code, headers=answer.headers, stream=body)

        return self._portal.call(answered)


@contextlib.asynccontextmanager
async def _app(settings: Settings, root_path: str) -> AsyncIterator[Callable]:
    async with shared_services(settings, "all") as common:
        keys = KeyService(settings, KeyRepository(common.database))
        async with api_services(common, "api", keys, None) as state:
            app = create_app(state, "api")

            async def with_state(scope, receive, send) -> None:
                path = root_path + scope["path"]  # as uvicorn has it
                await app({**scope, "path": path, "state": lifespan_state(state)}, receive, send)

            yield with_state


@contextlib.contextmanager
def api(data_dir: Path, *, root_path: str = "", **settings: object) -> Iterator[httpx.Client]:
    """A client of an API that nobody else reaches."""
    data_dir.mkdir(parents=True, exist_ok=True)
    made = Settings(data_dir=data_dir, **settings)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_app(made, root_path)) as app,
    ):
        asgi = httpx.ASGITransport(app, raise_app_exceptions=False, root_path=root_path)
        base_url = "http://127.0.0.1"
        with httpx.Client(transport=_Waiting(portal, asgi), base_url=base_url) as http:
            yield http
