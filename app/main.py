"""Put the service together and serve it."""

import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypedDict

import uvicorn
from fastapi import FastAPI
from filelock import FileLock, Timeout

from app import catalog
from app.errors import BadInput
from app.jobs import endpoints
from app.jobs.fanout import Workers, local_workers
from app.jobs.records import Records
from app.jobs.service import Jobs
from app.jobs.workflow import running_engine
from app.problems import answer_with_problems
from app.protocol import Protocol
from app.settings import Settings
from app.storage import Storage, open_storage

DESCRIPTION = "Palettize neural-network weights, and account for every tensor."


class State(TypedDict):
    """What endpoints find in `request.state`."""

    jobs: Jobs
    records: Records
    store: Storage
    workers: Workers


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI app; workers and engine start and stop with it."""
    app = FastAPI(
        title="Palettery", version="1", description=DESCRIPTION, lifespan=_lifespan(settings)
    )
    app.include_router(endpoints.router, tags=["jobs"])
    app.include_router(catalog.router, tags=["catalog"])
    answer_with_problems(app, [*endpoints.router.routes, *catalog.router.routes])
    return app


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        BadInput: an address that must not be listened on, or a folder another server works in.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    _check_host(settings)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.data_dir / "server.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadInput(
            f"another server works in {settings.data_dir}; stop it, or choose another --data-dir"
        ) from error
    with lock, _bound(settings) as listening:
        # uvicorn stops in good order, then raises the signal again; a wanted end is no failure.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        config = uvicorn.Config(
            create_app(settings),
            http=Protocol,
            log_level="warning",
            timeout_graceful_shutdown=10,
            timeout_keep_alive=30,
        )
        _Server(config).run(sockets=[listening])


class _Server(uvicorn.Server):
    """A server that says when it can be reached, and not before."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port, *_ = sockets[0].getsockname() if sockets else ("", 0)
        shown = f"[{host}]" if ":" in host else host
        print(f"palettery is ready at http://{shown}:{port}", flush=True)  # noqa: T201


def _lifespan(
    settings: Settings,
) -> Callable[[FastAPI], AbstractAsyncContextManager[State]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        store = open_storage(settings.resolved_storage_url())
        if settings.storage_url is None:
            store.delete_folder("uploads")  # what a crash cut off; nobody else works here
        records = Records(settings.resolved_database_url())
        try:
            async with (
                local_workers(settings.workers) as workers,
                running_engine(settings, records, store, workers) as engine,
            ):
                jobs = Jobs(settings, records, store, engine)
                yield State(jobs=jobs, records=records, store=store, workers=workers)
        finally:
            records.close()

    return lifespan


def _check_host(settings: Settings) -> None:
    try:
        is_loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        is_loopback = settings.host == "localhost"
    if not is_loopback and not settings.allow_remote:
        raise BadInput(
            f"refusing to listen on {settings.host}: there are no keys yet, so anyone could use "
            "it; listen on 127.0.0.1, or set PALETTERY_ALLOW_REMOTE=1 where the network is closed"
        )


def _bound(settings: Settings) -> socket.socket:
    """A listening socket, taken before any work starts."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise BadInput(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "choose another --port"
        ) from error
    return listening
