"""A pool of processes that parse documents of users, with limits and fair turns between owners.

Nothing that a user sends is parsed in the server: parsing holds the interpreter's lock, and takes
memory that the server would keep. There are two lanes: a small document is read at once by a warm
process; one that takes longer than `QUICK_S` there, or more than `QUICK_BYTES` of memory, is
restarted in the lane for large documents, which have a process each. So owners with expensive
documents delay each other, but delay small documents by no more than that.

Not `anyio.to_process`: its workers are new interpreters that import all code again instead of being
forked with it, have no memory limit, and it collects every result in the server's memory.
"""

import asyncio
import multiprocessing
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
from palettery.app.sandbox.document_process import serve
from palettery.app.sandbox.document_worker import DocumentWorker, WorkerEnded
from palettery.app.sandbox.fair_semaphore import FairSemaphore
from palettery.app.settings import Limits
from palettery.app.storage.spooled_content import PIECE_BYTES, Content

QUICK_PROCESSES, SLOW_PROCESSES = 3, 3
"""Maximum number of documents that are read concurrently, in each lane."""
LARGE_BYTES = 256 << 10
"""Minimum size of a large document."""
QUICK_S, QUICK_BYTES = 1.0, 256 << 20
"""Time and memory limits of a small document."""
SLOW_NICENESS = 10
"""Nice value of processes for large documents."""
REAP_S = 10
"""Timeout for reaping a killed process."""
CHECK_S = 10
"""Timeout of a health check from another thread."""
MAX_WAITING_PER_OWNER = 256
"""Maximum number of waiting requests of one owner per lane; each occupies memory or disk."""
PRELOADED = [
    "palettery.app.http.request_body",
    "palettery.app.configs.documents",
    "palettery.app.jobs.result_files",
    "palettery.app.jobs.targets",
    "palettery.app.calibrations.preparation",
    "palettery.app.jobs.json_submission",
    "palettery.app.jobs.report_csv",
    "palettery.app.models.indexing",
    "palettery.app.jobs.result_copy",
    "palettery.schemas.uploads",
    "palettery.app.cli.main",
]
"""Modules imported in the process that others are forked from; the last is the main program."""

P = ParamSpec("P")
R = TypeVar("R")

_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(PRELOADED)


@dataclass(frozen=True)
class DocumentClient:
    """The client that waits for a document to be read."""

    owner: str
    request: Request | None = None
    """Its request, fully received; reading is cancelled when the client disconnects."""

    async def wait_for_disconnect(self) -> None:
        """Wait until the client has disconnected."""
        assert self.request is not None  # noqa: S101 - checked by the caller
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


class DocumentPool:
    """The processes that read documents for one server process."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._quick, self._slow = FairSemaphore(QUICK_PROCESSES), FairSemaphore(SLOW_PROCESSES)
        self._idle: list[DocumentWorker] = []
        self._processes: set[BaseProcess] = set()
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
        """Run a function that reads about `size_bytes`, and return its result.

        Raises:
            TooLarge: it exceeds the time or memory limit.
            OverQuota: too many requests of the owner are waiting.
            WorkerDied: its process died.
            InvalidUpload: the client disconnected. The function may raise other errors.
        """
        return await self._run(client, size_bytes, (function, args, kwargs))  # type: ignore[no-any-return] # of the function

    async def document(
        self,
        client: DocumentClient,
        size_bytes: int,
        function: Callable[P, bytes],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Content:
        """Run a function that returns bytes, which are spooled to a file if large; see `run`."""
        return await self._run(client, size_bytes, (function, args, kwargs))  # type: ignore[no-any-return] # as bytes come

    async def check(self) -> None:
        """Check that a small document can be read."""
        await self.run(DocumentClient(""), 0, bool)

    def health_problem(self, loop: asyncio.AbstractEventLoop) -> str | None:
        """Return why no document can be read, or None; called from another thread."""
        try:
            asyncio.run_coroutine_threadsafe(self.check(), loop).result(CHECK_S)
        except TimeoutError:
            return f"reading a document timed out after {CHECK_S} s"
        except PaletteryError as error:
            return error.detail
        return None

    async def close(self) -> None:
        """End every process."""
        self._is_closed = True
        for worker in self._idle:
            worker.writer.close()
        self._idle.clear()
        for running in list(self._processes):
            running.kill()
        self._starter.shutdown(wait=False, cancel_futures=True)

    async def _run(self, client: DocumentClient, size_bytes: int, task: tuple[Any, ...]) -> Any:
        """Run a task; cancel it when its client disconnects."""
        result = asyncio.ensure_future(self._run_fairly(client.owner, size_bytes, task))
        if client.request is None:
            return await result
        disconnect = asyncio.ensure_future(client.wait_for_disconnect())
        try:
            await asyncio.wait({result, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            raise InvalidUpload("the client closed the connection before the response")
        finally:
            result.cancel()
            disconnect.cancel()
            await asyncio.gather(result, disconnect, return_exceptions=True)

    async def _run_fairly(self, owner: str, size_bytes: int, task: tuple[Any, ...]) -> Any:
        if size_bytes < LARGE_BYTES:
            with suppress(TimeoutError, WorkerEnded):
                async with self._turn(self._quick, owner):
                    return await self._run_quick(task)
        async with self._turn(self._slow, owner):
            return await self._run_slow(task)

    @asynccontextmanager
    async def _turn(self, lane: FairSemaphore, owner: str) -> AsyncIterator[None]:
        if lane.waiting(owner) >= MAX_WAITING_PER_OWNER:
            raise OverQuota(
                f"{MAX_WAITING_PER_OWNER} requests of {owner} wait for a document to be read, "
                "the most allowed: send fewer at once"
            )
        async with lane.turn(owner):
            yield

    async def _run_quick(self, task: tuple[Any, ...]) -> Any:
        worker = self._idle.pop() if self._idle else await self._start(QUICK_BYTES, 0)
        try:
            async with asyncio.timeout(QUICK_S):
                return await worker.run(task)
        except (WorkerEnded, TimeoutError, asyncio.CancelledError):
            worker.is_last = True
            raise
        finally:
            if worker.is_last or self._is_closed:
                self._end(worker)
            else:
                self._idle.append(worker)

    async def _run_slow(self, task: tuple[Any, ...]) -> Any:
        limit_bytes, limit_s = self._limits.document_memory_bytes, self._limits.document_timeout_s
        worker = await self._start(limit_bytes, SLOW_NICENESS)
        try:
            async with asyncio.timeout(limit_s):
                return await worker.run(task)
        except TimeoutError as error:
            raise TooLarge(
                f"reading it exceeds the limit of {limit_s:g} s; send a smaller model or config, "
                "or ask the operator to raise PALETTERY_LIMIT_DOCUMENT_TIMEOUT_S"
            ) from error
        except WorkerEnded as error:
            raise await self._exit_error(worker, limit_bytes) from error
        finally:
            self._end(worker)

    async def _exit_error(self, worker: DocumentWorker, limit_bytes: int) -> TooLarge | WorkerDied:
        """Return the error for a process that ended without a response."""
        remedy = (
            "send a smaller model or config, or ask the operator to raise "
            "PALETTERY_LIMIT_DOCUMENT_MEMORY_BYTES"
        )
        if worker.is_last:
            return TooLarge(
                f"reading it exceeds the limit of {limit_bytes:,} bytes of memory; {remedy}"
            )
        await self._in_thread(worker.process.join, 1)
        code = worker.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"the exit code {code}"
        return WorkerDied(
            f"the process that read it died with {how}; its limit is {limit_bytes:,} bytes of "
            f"memory: {remedy}"
        )

    async def _start(self, memory_bytes: int, niceness: int) -> DocumentWorker:
        if self._is_closed:
            raise Unavailable("the server is stopping; send the request again")
        ours, theirs = socket.socketpair()
        starting = self._starter.submit(_start_process, theirs, memory_bytes, niceness)
        try:
            process = await asyncio.wrap_future(starting)
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=PIECE_BYTES)
        except BaseException as error:
            ours.close()  # this ends the process
            if starting.cancel():  # else `_start_process` closes it
                theirs.close()
            if isinstance(error, OSError | EOFError):
                raise Unavailable(f"cannot start a process to read it: {error}") from error
            raise
        self._processes.add(process)
        return DocumentWorker(process, reader, writer)

    def _end(self, worker: DocumentWorker) -> None:
        """Kill a process, and reap it in another thread."""
        worker.writer.close()
        worker.process.kill()
        if not self._is_closed:
            self._starter.submit(self._reap, worker.process)

    def _reap(self, process: BaseProcess) -> None:
        process.join(REAP_S)
        self._processes.discard(process)

    def _in_thread(self, function: Callable[..., R], *args: object) -> Awaitable[R]:
        return asyncio.get_running_loop().run_in_executor(self._starter, function, *args)


def _start_process(connection: socket.socket, memory_bytes: int, niceness: int) -> BaseProcess:
    with connection:
        process = _FORKSERVER.Process(target=serve, args=(connection, memory_bytes, niceness))
        process.daemon = True
        process.start()
    return process
