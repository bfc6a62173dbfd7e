"""Read documents of users in processes of their own, within limits, by turns.

Nothing that a user sends is parsed in the server: whatever parses it holds the interpreter's lock,
and takes memory that the server would keep. Two lanes: a document that looks small is read at once
by a process that is warm; what takes longer than `QUICK_S` there, or more than `QUICK_BYTES` of
memory, begins anew in the lane of large ones, which have a process each. So many owners with
expensive documents hold up each other, and nobody's small document for longer than that.
"""

import asyncio
import multiprocessing
import pickle
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, ParamSpec, TypeVar

from starlette.requests import Request

from palettery.app.errors import (
    InvalidUpload,
    OverQuota,
    PaletteryError,
    TooLarge,
    Unavailable,
    WorkerDied,
)
from palettery.app.sandbox.document_process import (
    DOCUMENT,
    ERROR,
    FAULT,
    HEADER,
    OUT_OF_MEMORY,
    serve,
)
from palettery.app.sandbox.fair_semaphore import FairSemaphore
from palettery.app.settings import Limits
from palettery.app.storage.spooled_content import (
    IN_MEMORY_BYTES,
    PIECE_BYTES,
    Content,
    SpooledContent,
)

QUICK_PLACES, SLOW_PLACES = 3, 3
"""Documents that are read at once in each lane."""
LARGE_BYTES = 256 << 10
"""Documents from here on are large."""
QUICK_S, QUICK_BYTES = 1.0, 256 << 20
"""Time and memory of a small document."""
SLOW_NICENESS = 10
REAP_S = 10
"""For which a process is waited for that was killed."""
CHECK_S = 10
"""After which a check by another thread is given up."""
MAX_WAITING_PER_OWNER = 256
"""Requests of one owner that may wait in each lane; the server holds the document of each."""
PRELOADED = [
    "palettery.app.http.request_body",
    "palettery.app.configs.documents",
    "palettery.app.jobs.result_files",
    "palettery.app.jobs.preparation",
    "palettery.app.jobs.options",
    "palettery.app.models.indexing",
    "palettery.app.jobs.result_takeover",
    "palettery.schemas.uploads",
    "palettery.app.cli.main",
]
"""Modules of the process that others are forked from; the last one is the program itself."""

P = ParamSpec("P")
R = TypeVar("R")

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(PRELOADED)


class DocumentFault(RuntimeError):
    """A defect of ours that a document met in another process; the message is its traceback."""


class _ProcessEnded(Exception):
    """A process ended, or was out of memory, and another one may do better."""


@dataclass(frozen=True)
class DocumentClient:
    """Who waits for a document to be read."""

    owner: str
    request: Request | None = None
    """Its request, whose body is in; the reading ends when that connection does."""

    async def leaves(self) -> None:
        """Wait until the client has gone."""
        assert self.request is not None  # noqa: S101 - asked before
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


@dataclass
class _Process:
    """A process that reads, and the connection to it."""

    process: BaseProcess
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_last: bool = False
    """Whether it takes no further task."""


class DocumentPool:
    """The processes that read documents for one server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._quick, self._slow = FairSemaphore(QUICK_PLACES), FairSemaphore(SLOW_PLACES)
        self._idle: list[_Process] = []
        self._all: set[BaseProcess] = set()
        self._starter = ThreadPoolExecutor(1, "documents")
        self._is_closed = False

    async def run(
        self,
        client: DocumentClient,
        size_bytes: int,
        function: Callable[P, R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Return what a function returns that reads about so many bytes for a client.

        Raises:
            TooLarge: it takes longer or more memory than may be.
            OverQuota: too many requests of the same owner wait already.
            WorkerDied: its process died.
            InvalidUpload: the client left; beside whatever the function raises.
        """
        return await self._for(client, size_bytes, (function, args, kwargs))  # type: ignore[no-any-return] # of the function

    async def document(
        self,
        client: DocumentClient,
        size_bytes: int,
        function: Callable[P, bytes],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Content:
        """The same, of a function that makes a document, which lies in a file if it is large."""
        return await self._for(client, size_bytes, (function, args, kwargs))  # type: ignore[no-any-return] # as bytes come

    async def check(self) -> None:
        """See that a small document would be read now."""
        await self.run(DocumentClient(""), 0, bool)

    def fault(self, loop: asyncio.AbstractEventLoop) -> str | None:
        """Tell from another thread why nothing can be read; None if it can."""
        try:
            asyncio.run_coroutine_threadsafe(self.check(), loop).result(CHECK_S)
        except TimeoutError:
            return f"no document is read within {CHECK_S} s"
        except PaletteryError as error:
            return error.detail
        return None

    async def close(self) -> None:
        """End every process."""
        self._is_closed = True
        for process in self._idle:
            process.writer.close()
        self._idle.clear()
        for running in list(self._all):
            running.kill()
        self._starter.shutdown(wait=False, cancel_futures=True)

    async def _for(self, client: DocumentClient, size_bytes: int, task: tuple[Any, ...]) -> Any:
        """Run a task, as long as its client waits for it."""
        working = asyncio.ensure_future(self._in_turn(client.owner, size_bytes, task))
        if client.request is None:
            return await working
        leaving = asyncio.ensure_future(client.leaves())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise InvalidUpload("the client closed the connection before it had its answer")
        finally:
            working.cancel()
            leaving.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def _in_turn(self, owner: str, size_bytes: int, task: tuple[Any, ...]) -> Any:
        if size_bytes < LARGE_BYTES:
            with suppress(TimeoutError, _ProcessEnded):
                async with self._turn(self._quick, owner):
                    return await self._quickly(task)
        async with self._turn(self._slow, owner):
            return await self._slowly(task)

    @asynccontextmanager
    async def _turn(self, lane: FairSemaphore, owner: str) -> AsyncIterator[None]:
        if lane.waiting(owner) >= MAX_WAITING_PER_OWNER:
            raise OverQuota(
                f"{MAX_WAITING_PER_OWNER} requests of {owner} wait for a document to be read, "
                "the most allowed: send fewer at once"
            )
        async with lane.turn(owner):
            yield

    async def _quickly(self, task: tuple[Any, ...]) -> Any:
        process = self._idle.pop() if self._idle else await self._started(QUICK_BYTES, 0)
        try:
            async with asyncio.timeout(QUICK_S):
                return await _exchange(process, task)
        except (_ProcessEnded, TimeoutError, asyncio.CancelledError):
            process.is_last = True
            raise
        finally:
            if process.is_last or self._is_closed:
                self._end(process)
            else:
                self._idle.append(process)

    async def _slowly(self, task: tuple[Any, ...]) -> Any:
        most_bytes, most_s = self._limits.document_memory_bytes, self._limits.document_timeout_s
        process = await self._started(most_bytes, SLOW_NICENESS)
        try:
            async with asyncio.timeout(most_s):
                return await _exchange(process, task)
        except TimeoutError as error:
            raise TooLarge(
                f"reading it takes over {most_s:g} s, the most allowed; send a smaller model or "
                "config, or have the operator raise PALETTERY_LIMIT_DOCUMENT_TIMEOUT_S"
            ) from error
        except _ProcessEnded as error:
            raise await self._death(process, most_bytes) from error
        finally:
            self._end(process)

    async def _death(self, process: _Process, most_bytes: int) -> TooLarge | WorkerDied:
        """Tell how a process ended that gave no answer."""
        remedy = (
            "send a smaller model or config, or have the operator raise "
            "PALETTERY_LIMIT_DOCUMENT_MEMORY_BYTES"
        )
        if process.is_last:
            return TooLarge(
                f"reading it takes over {most_bytes:,} bytes of memory, the most allowed; {remedy}"
            )
        await self._threaded(process.process.join, 1)
        code = process.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"the exit code {code}"
        return WorkerDied(
            f"the process that read it died with {how}; it may take {most_bytes:,} bytes of "
            f"memory: {remedy}"
        )

    async def _started(self, memory_bytes: int, niceness: int) -> _Process:
        if self._is_closed:
            raise Unavailable("the server is stopping; send the request again")
        ours, theirs = socket.socketpair()
        starting = self._starter.submit(_start, theirs, memory_bytes, niceness)
        try:
            process = await asyncio.wrap_future(starting)
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=PIECE_BYTES)
        except BaseException as error:
            ours.close()  # which ends the process
            if starting.cancel():  # else `_start` closes it
                theirs.close()
            if isinstance(error, OSError | EOFError):
                raise Unavailable(f"no process could be started to read it: {error}") from error
            raise
        self._all.add(process)
        return _Process(process, reader, writer)

    def _end(self, process: _Process) -> None:
        """End a process, and wait for it in another thread."""
        process.writer.close()
        process.process.kill()
        if not self._is_closed:
            self._starter.submit(self._reap, process.process)

    def _reap(self, process: BaseProcess) -> None:
        process.join(REAP_S)
        self._all.discard(process)

    def _threaded(self, function: Callable[..., R], *args: object) -> Awaitable[R]:
        return asyncio.get_running_loop().run_in_executor(self._starter, function, *args)


def _start(connection: socket.socket, memory_bytes: int, niceness: int) -> BaseProcess:
    with connection:
        process = _FORKS.Process(target=serve, args=(connection, memory_bytes, niceness))
        process.daemon = True
        process.start()
    return process


async def _exchange(process: _Process, task: tuple[Any, ...]) -> Any:
    """Have a process run a task.

    Raises:
        _Ended: it gave no answer.
    """
    try:
        process.writer.write(await asyncio.to_thread(pickle.dumps, task))
        await process.writer.drain()
        head = await process.reader.readexactly(HEADER.size)
        kind, process.is_last, size_bytes = HEADER.unpack(head)
        if kind == DOCUMENT and size_bytes > IN_MEMORY_BYTES:
            return await _read_spooled(process.reader, size_bytes)
        answer = await process.reader.readexactly(size_bytes)
    except (OSError, asyncio.IncompleteReadError) as error:
        raise _ProcessEnded from error
    if kind == OUT_OF_MEMORY:
        raise _ProcessEnded
    if kind == FAULT:
        raise DocumentFault(answer.decode())
    if kind == DOCUMENT:
        return answer
    value = (
        await asyncio.to_thread(_unpickled, answer)
        if size_bytes > IN_MEMORY_BYTES
        else _unpickled(answer)
    )
    if kind == ERROR:
        raise value
    return value


def _unpickled(answer: bytes) -> Any:
    return pickle.loads(answer)  # noqa: S301 - our process wrote it


async def _read_spooled(reader: asyncio.StreamReader, size_bytes: int) -> SpooledContent:
    """So many bytes that come in, in a file."""
    answer = SpooledContent()
    while len(answer) < size_bytes:
        piece = await reader.read(min(size_bytes - len(answer), PIECE_BYTES))
        if not piece:
            raise _ProcessEnded
        answer.append(piece)
    return answer
