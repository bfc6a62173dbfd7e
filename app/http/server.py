"""HTTP server of an app, with limits on client connections."""

import asyncio
import logging
import resource
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from palettery.app.http.client_connection import ClientConnection
from palettery.app.http.middleware import with_request_log
from palettery.app.observability.metrics import Metrics
from palettery.app.settings import Clients

TICKS_PER_CHECK = 5
"""Ticks of 0.1 s between two checks of all connections."""
OTHER_FILES = 512
"""Open files reserved for everything except client connections."""
SHUTDOWN_TIMEOUT_S = 10
"""Time for responses in progress to end."""

OnStop = Callable[[], Awaitable[None]]
"""Callback at the start of a shutdown, to end streams that have no end of their own."""

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Server that checks its connections and announces when it is ready."""

    def __init__(self, config: uvicorn.Config, on_stop: OnStop | None) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and print the address."""
        await super().startup(sockets)
        host, port, *_ = sockets[0].getsockname() if sockets else ("", 0)
        shown = f"[{host}]" if ":" in host else host
        print(f"palettery is ready at http://{shown}:{port}", flush=True)  # noqa: T201

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down gracefully, after `on_stop` has ended endless streams."""
        if self._on_stop is not None:
            await self._on_stop()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Check the connections of slow clients; called ten times per second."""
        if counter % TICKS_PER_CHECK == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, ClientConnection):
                    connection.check(now)
        return await super().on_tick(counter)


def build_server(
    app: ASGIApp,
    clients: Clients,
    metrics: Metrics,
    on_stop: OnStop | None = None,
    root_path: str = "",
) -> Server:
    """Return a server of an app, not yet running."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_open_file_limit(), _open_file_limit()))
    return Server(
        uvicorn.Config(
            with_request_log(app, metrics),
            http=partial(ClientConnection, clients=clients, on_close=metrics.connection_closed),  # type: ignore[arg-type] # a callable is enough
            log_config=None,
            access_log=False,
            root_path=root_path,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
            timeout_keep_alive=int(clients.keep_alive_s) + 1,
        ),
        on_stop,
    )


def cap_connections(clients: Clients) -> Clients:
    """Return the limits with at most as many connections as the open-file limit allows."""
    connections = max(1, min(clients.connections, _open_file_limit() - OTHER_FILES))
    if connections < clients.connections:
        log.warning("the limit of open files allows %d connections", connections)
    return clients.model_copy(update={"connections": connections})


def _open_file_limit() -> int:
    """Return the hard limit of open files of this process."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
