"""A TCP proxy before an HTTP server, which fails in the way that a test says."""

import asyncio
import contextlib
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

PIECE_BYTES = 64 << 10
CALL_S = 10
ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Pass:
    """Everything goes through."""


@dataclass(frozen=True)
class Refuse:
    """Nobody listens, and open connections are cut."""


@dataclass(frozen=True)
class Unavailable:
    """Every request is answered with 503."""


@dataclass(frozen=True)
class Stall:
    """Connections are accepted and nothing goes through, until the behaviour changes."""


@dataclass(frozen=True)
class Slow:
    """Each direction of a connection goes through at this speed."""

    bytes_per_s: int


@dataclass(frozen=True)
class Cut:
    """A connection is cut once this many bytes went through in one direction."""

    after_bytes: int


Behaviour = Pass | Refuse | Unavailable | Stall | Slow | Cut


@dataclass(eq=False)
class FaultProxy:
    """The proxy; it runs on a thread of its own, and its methods are for every other thread."""

    server_port: int
    port: int = 0
    faults: int = 0
    """How often a client met the behaviour, but `Refuse`, since it was chosen."""
    _behaviour: Behaviour = Pass()
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _listener: asyncio.Server | None = None
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    @contextlib.contextmanager
    def before(cls, server_port: int) -> Iterator[Self]:
        """A proxy before the server at a port of this machine."""
        proxy = cls(server_port)
        thread = threading.Thread(target=proxy._loop.run_forever, name="fault-proxy")
        thread.start()
        try:
            proxy._call(proxy._listen())
            yield proxy
            proxy._call(proxy._close())
        finally:
            proxy._loop.call_soon_threadsafe(proxy._loop.stop)
            thread.join()
            proxy._loop.close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def behave(self, behaviour: Behaviour) -> None:
        """From now on, so."""
        self._call(self._behave(behaviour))

    def _call(self, work: Awaitable[None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)  # type: ignore[arg-type]

    async def _behave(self, behaviour: Behaviour) -> None:
        self._behaviour, self.faults = behaviour, 0
        self._changed.set()
        self._changed = asyncio.Event()
        if isinstance(behaviour, Refuse):
            await self._close()
        elif self._listener is None:
            await self._listen()
        elif isinstance(behaviour, Unavailable):
            await self._cut_all()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._cut_all()

    async def _cut_all(self) -> None:
        for connection in self._open:
            connection.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if isinstance(self._behaviour, Unavailable):
                await self._answer(reader, writer)
            else:
                await self._forward(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the other side went, or we are to cut it
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        self.faults += 1
        writer.write(ANSWER)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", self.server_port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, requests))
                both.create_task(self._pump(answers, writer))
        except* (OSError, EOFError):
            pass
        finally:
            requests.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cut, passed = self._behaviour, 0
        while piece := await reader.read(PIECE_BYTES):
            if isinstance(self._behaviour, Stall):
                self.faults += 1
                await self._while(lambda: isinstance(self._behaviour, Stall))
            if isinstance(self._behaviour, Slow):
                self.faults += 1
                await asyncio.sleep(len(piece) / self._behaviour.bytes_per_s)
            if isinstance(self._behaviour, Cut):
                passed = passed + len(piece) if cut is self._behaviour else len(piece)
                cut = self._behaviour
                if passed > cut.after_bytes:
                    self.faults += 1
                    raise EOFError
            writer.write(piece)
            await writer.drain()
        raise EOFError  # so that the other direction ends too

    async def _while(self, so: Callable[[], bool]) -> None:
        while so():
            await self._changed.wait()
