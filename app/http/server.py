"""A server around an app: patient with slow clients for a while, and not for ever."""

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

CHECK_TICKS = 5
"""Of a tenth of a second each, between two looks at all connections."""
OTHER_FILES = 512
"""Files that may be open beside the clients' connections."""
STOP_WITHIN_S = 10

OnStop = Callable[[], Awaitable[None]]
"""Called when a server begins to stop, to end what would go on for ever."""

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Looks after its connections, and says when it can be reached, not before."""

    def __init__(self, config: uvicorn.Config, on_stop: OnStop | None) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        host, port, *_ = sockets[0].getsockname() if sockets else ("", 0)
        shown = f"[{host}]" if ":" in host else host
        print(f"palettery is ready at http://{shown}:{port}", flush=True)  # noqa: T201

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running answers end; those that would not are told to."""
        if self._on_stop is not None:
            await self._on_stop()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: give up the clients that are too slow."""
        if counter % CHECK_TICKS == 0:
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
    """A server of an app, which still has to be told to serve."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_most_files(), _most_files()))
    return Server(
        uvicorn.Config(
            with_request_log(app, metrics),
            http=partial(ClientConnection, clients=clients, given_up=metrics.connection_closed),  # type: ignore[arg-type] # called, as a class would be
            log_config=None,
            access_log=False,
            root_path=root_path,
            timeout_graceful_shutdown=STOP_WITHIN_S,
            timeout_keep_alive=int(clients.keep_alive_s) + 1,
        ),
        on_stop,
    )


def limit_to_open_files(clients: Clients) -> Clients:
    """The same, with no more connections than files leave room for."""
    connections = max(1, min(clients.connections, _most_files() - OTHER_FILES))
    if connections < clients.connections:
        log.warning("files that may be open leave room for %d connections", connections)
    return clients.model_copy(update={"connections": connections})


def _most_files() -> int:
    """Files that this process may open, once it asks for all that it can have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
