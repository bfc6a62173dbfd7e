"""Put the service together and serve it."""

import asyncio
import errno
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import uvloop
from fastapi import Depends, FastAPI
from filelock import FileLock, Timeout

from palettery.app.configs import endpoints as configs
from palettery.app.configs import schemas_endpoints as catalog
from palettery.app.dashboard import endpoints as dashboard
from palettery.app.errors import BadInput
from palettery.app.events import endpoints as events
from palettery.app.http import api_reference as reference
from palettery.app.http.head_requests import HeadAsGet
from palettery.app.http.problems import answer_with_problems, problems
from palettery.app.http.server import server, within_files
from palettery.app.jobs import endpoints as jobs
from palettery.app.keys import endpoints as keys
from palettery.app.models import endpoints as models
from palettery.app.observability.tracing import tracing
from palettery.app.roles.role import Role, ServiceState, check, running
from palettery.app.sandbox.process_memory import limit_arenas
from palettery.app.settings import Settings
from palettery.app.storage.data_folder import prepare
from palettery.app.storage.disk_reserve import release_reserve
from palettery.app.system import health, overview
from palettery.app.uploads import endpoints as uploads
from palettery.app.webhooks import endpoints as webhooks

DESCRIPTION = "Palettize neural-network weights, and account for every tensor."
KEYED = {
    "uploads": uploads.router,
    "models": models.router,
    "configs": configs.router,
    "jobs": jobs.router,
    "events": events.router,
    "keys": keys.router,
    "webhooks": webhooks.router,
    "service": overview.router,
}
"""Routers whose every endpoint asks for a key."""
REFUSED = problems(_401="no valid key", _403="the key has not the scope")


SWITCH_S = 0.0005
"""After which a thread that computes lets another one go on; Python's own 5 ms are a tail of 50."""


def create_app(state: ServiceState, role: Role = "all") -> FastAPI:
    """A role of the service as an ASGI app; a controller answers nothing but how it is."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[ServiceState]:
        yield state

    served = {"health": health.router}
    if role != "controller":
        served = KEYED | {"catalog": catalog.router, "dashboard": dashboard.router} | served
    app = FastAPI(
        title="Palettery", version="1", description=DESCRIPTION, lifespan=lifespan, openapi_url=None
    )
    reference.add_reference(app)
    for tag, router in served.items():
        is_keyed = tag in KEYED
        app.include_router(
            router,
            tags=[tag],
            responses=REFUSED if is_keyed else None,
            dependencies=[Depends(release_reserve)] if is_keyed else None,
        )
    routers = [reference.router, *served.values()]
    answer_with_problems(app, [route for router in routers for route in router.routes])
    app.add_middleware(HeadAsGet)
    return app


def serve(settings: Settings, role: Role = "all") -> None:
    """Serve a role until SIGTERM or SIGINT.

    Raises:
        BadInput: an address that must not be listened on, settings that do not fit together, a
            folder or an executor id that another server works with, a database of another version.
    """
    check(settings, role)
    settings = settings.model_copy(update={"clients": within_files(settings.clients)})
    # Requests wait for no thread that computes, such as the engine's when it looks at its queue.
    sys.setswitchinterval(SWITCH_S)
    limit_arenas()
    # uvicorn stops in good order, then raises the signal again; a wanted end is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        _alone(settings) if role == "all" else nullcontext(),
        _bound(settings) as listening,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(settings, role, listening))


async def _serve(settings: Settings, role: Role, listening: socket.socket) -> None:
    with tracing() as traces:
        async with running(settings, role, traces, stop=_stop) as state:
            app = create_app(state, role)
            traces.follow(app)

            async def close_streams() -> None:
                await asyncio.gather(state["streams"].close(), state["live"].close())

            serving = server(
                app,
                settings.clients,
                state["metrics"],
                on_stop=close_streams,
                root_path=settings.root_path,
            )
            await serving.serve(sockets=[listening])


def _stop() -> None:
    signal.raise_signal(signal.SIGTERM)


def _alone(settings: Settings) -> FileLock:
    """The data folder, with no other server in it."""
    prepare(settings)
    lock = FileLock(settings.data_dir / "server.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadInput(
            f"another server works in {settings.data_dir}; stop it, or choose another --data-dir"
        ) from error
    except OSError as error:
        raise BadInput(
            f"cannot lock {lock.lock_file}: {error.strerror}; choose another --data-dir"
        ) from error
    return lock


def _bound(settings: Settings) -> socket.socket:
    """A listening socket, taken before any work starts."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named TCP, or asyncio would not know to send small answers at once.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        is_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
        raise BadInput(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            f"choose another {'--port' if is_port else '--host'}"
        ) from error
    return listening
