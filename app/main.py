"""Assembly of the service as a FastAPI app, and its server."""

import asyncio
import errno
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Annotated, Any

import uvloop
from fastapi import Depends, FastAPI, Request
from filelock import FileLock, Timeout

from palettery.app.calibrations import endpoints as calibrations
from palettery.app.configs import endpoints as configs
from palettery.app.configs import schemas_endpoints as schemas
from palettery.app.dashboard import endpoints as dashboard
from palettery.app.errors import BadInput
from palettery.app.evaluations import endpoints as evaluations
from palettery.app.events import endpoints as events
from palettery.app.http.head_requests import HeadAsGet
from palettery.app.http.problems import add_problem_handlers, problems
from palettery.app.http.server import build_server, cap_connections
from palettery.app.http.services import ServiceLookup, lifespan_state
from palettery.app.jobs import endpoints as jobs
from palettery.app.keys import endpoints as keys
from palettery.app.models import endpoints as models
from palettery.app.observability.tracing import tracing
from palettery.app.roles.role import Role, ServiceState, check_role_settings, run_role
from palettery.app.sandbox.process_memory import limit_arenas
from palettery.app.settings import Settings
from palettery.app.storage.data_folder import prepare
from palettery.app.storage.disk_reserve import DiskReserve
from palettery.app.system import api_reference, health, overview
from palettery.app.uploads import endpoints as uploads
from palettery.app.webhooks import endpoints as webhooks

DESCRIPTION = "Palettize neural-network weights, with a report on every tensor."
PROTECTED = {
    "uploads": uploads.router,
    "models": models.router,
    "configs": configs.router,
    "calibrations": calibrations.router,
    "jobs": jobs.router,
    "evaluations": evaluations.router,
    "events": events.router,
    "keys": keys.router,
    "webhooks": webhooks.router,
    "service": overview.router,
}
"""Routers whose endpoints all require an API key."""
UNAUTHORIZED = problems(_401="no valid API key", _403="the API key lacks the scope")


SWITCH_S = 0.0005
"""Thread switch interval; Python's default of 5 ms causes a tail latency of 50 ms."""


def create_app(state: ServiceState, role: Role = "all") -> FastAPI:
    """Return the ASGI app of a role; a controller serves health checks and metrics only."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield lifespan_state(state)

    served = {"health": health.router}
    if role != "controller":
        served = PROTECTED | {"catalog": schemas.router, "dashboard": dashboard.router} | served
    app = FastAPI(
        title="Palettery", version="1", description=DESCRIPTION, lifespan=lifespan, openapi_url=None
    )
    api_reference.add_reference(app)
    for tag, router in served.items():
        is_protected = tag in PROTECTED
        app.include_router(
            router,
            tags=[tag],
            responses=UNAUTHORIZED if is_protected else None,
            dependencies=[Depends(release_reserve)] if is_protected else None,
        )
    routers = [api_reference.router, *served.values()]
    add_problem_handlers(app, [route for router in routers for route in router.routes])
    app.add_middleware(HeadAsGet)
    return app


async def release_reserve(
    request: Request, reserve: Annotated[DiskReserve, Depends(ServiceLookup(DiskReserve))]
) -> None:
    """Give up the disk's reserve for a request that ends or deletes something."""
    if request.method == "DELETE" or request.url.path.endswith("/cancel"):
        reserve.release()


def serve(settings: Settings, role: Role = "all") -> None:
    """Serve a role until SIGTERM or SIGINT.

    Raises:
        BadInput: the address is not allowed, a setting is missing, another server uses the data
            folder or the executor id, or the database has another version.
    """
    check_role_settings(settings, role)
    settings = settings.model_copy(update={"clients": cap_connections(settings.clients)})
    # Requests must not wait for threads that compute, such as the engine's when it polls its queue.
    sys.setswitchinterval(SWITCH_S)
    limit_arenas()
    # uvicorn shuts down, then raises the signal again; a requested end is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        _locked_data_folder(settings) if role == "all" else nullcontext(),
        _listen(settings) as listening,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(settings, role, listening))


async def _serve(settings: Settings, role: Role, listening: socket.socket) -> None:
    with tracing() as traces:
        async with run_role(settings, role, traces, stop=_stop) as state:
            app = create_app(state, role)
            traces.instrument(app)

            async def close_streams() -> None:
                await asyncio.gather(state.streams.close(), state.live_lists.close())

            serving = build_server(
                app,
                settings.clients,
                state.metrics,
                on_stop=close_streams,
                root_path=settings.root_path,
            )
            await serving.serve(sockets=[listening])


def _stop() -> None:
    signal.raise_signal(signal.SIGTERM)


def _locked_data_folder(settings: Settings) -> FileLock:
    """Lock the data folder against other servers."""
    prepare(settings)
    lock = FileLock(settings.data_dir / "server.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadInput(
            f"another server uses {settings.data_dir}; stop it, or choose another --data-dir"
        ) from error
    except OSError as error:
        raise BadInput(
            f"cannot lock {lock.lock_file}: {error.strerror}; choose another --data-dir"
        ) from error
    return lock


def _listen(settings: Settings) -> socket.socket:
    """Return a bound socket, before any other work starts."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With IPPROTO_TCP, asyncio sets TCP_NODELAY.
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
