"""Read documents, those of strangers too, a few at a time; what is large, in its own process.

Whatever parses a document of megabytes holds the interpreter's lock for long, and every other
request waits for it. Each process is forked from one that has the code loaded, so that it costs
milliseconds, and its memory is given back when it ends.
"""

import asyncio
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

from app.errors import PaletteryError, WorkerDied

AT_ONCE = 3
"""The others wait without holding a thread."""
OF_ONE_OWNER = AT_ONCE - 1
"""At once, so that a turn is left for others."""
LARGE_BYTES = 64 << 10
"""From here on a process of its own; less is read in milliseconds."""
LOADED = ["app.configs.read", "app.jobs.prepare", "app.results.take_over", "app.cli"]
"""Modules of the process that others are forked from; the last one is the program itself."""

_P = ParamSpec("_P")
_R = TypeVar("_R")

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(LOADED)


class Readers:
    """Whoever reads, for all who ask together."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        # Each is there only while somebody waits for it or holds it.
        self._turns_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def run(
        self,
        owner: str,
        size_bytes: int,
        function: Callable[_P, _R],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _R:
        """What a function gives that reads about so many bytes for an owner.

        Raises:
            WorkerDied: its process died; beside whatever the function raises.
        """
        run = function if size_bytes < LARGE_BYTES else _apart(function)
        own = self._turns_of.setdefault(owner, asyncio.Semaphore(OF_ONE_OWNER))
        async with own, self._turns:
            return await asyncio.to_thread(run, *args, **kwargs)


def _apart(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The same function, run in another process."""

    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        reading, writing = _FORKS.Pipe(duplex=False)
        process = _FORKS.Process(
            target=_answer, args=(writing, function, args, kwargs), daemon=True
        )
        with reading:
            with writing:
                process.start()
            try:
                is_done, found = reading.recv()
            except EOFError as error:
                raise WorkerDied(
                    "the process that read the request died; send a smaller model or config"
                ) from error
            finally:
                process.join()
                process.close()
        if not is_done:
            raise found
        return found  # type: ignore[no-any-return] # what the function gave

    return run


def _answer(
    writing: Connection,
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    """Send what a function gives or raises; an error of ours as it is."""
    with writing:
        try:
            told = (True, function(*args, **kwargs))
        except PaletteryError as error:
            told = (False, error)
        writing.send(told)
