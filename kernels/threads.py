"""Spread independent pieces of work over the cores."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")
Check = Callable[[], None]
"""Called now and then; what it raises ends the work."""


def unchecked() -> None:
    """Let the work go on."""


@cache
def available_threads() -> int:
    """Cores that this process may use: by its affinity, and by the quota of its cgroup."""
    from dask.system import CPU_COUNT  # which takes a while

    return CPU_COUNT


def spread(
    work: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    threads: int | None,
    check: Check = unchecked,
) -> list[Result]:
    """Results of `work` in the order of the pieces, whatever the number of threads.

    `check` is called by the calling thread before the first piece and after each.
    """
    pieces = list(pieces)
    threads = min(len(pieces), threads or available_threads())
    if threads > 1:
        with pool_of(threads) as pool:
            return collected(pool.map(work, pieces), check)
    return collected(map(work, pieces), check)


@contextmanager
def pool_of(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that on the way out, most of all by an error, starts nothing that it has not begun."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def collected(results: Iterable[Result], check: Check) -> list[Result]:
    """All results; `check` is called before the first and after each."""
    check()
    found = []
    for result in results:
        found.append(result)
        check()
    return found
