"""Parallel execution of independent pieces of work in a thread pool."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")
Check = Callable[[], None]
"""Function that is called regularly; an exception that it raises cancels the work."""


def no_check() -> None:
    """Never cancel the work."""


@cache
def available_threads() -> int:
    """Return how many cores this process may use, by its CPU affinity and its cgroup's quota."""
    from dask.system import CPU_COUNT  # a slow import

    return CPU_COUNT


def parallel_map(
    work: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    threads: int | None,
    check: Check = no_check,
) -> list[Result]:
    """Return the results of `work` for all pieces, in their order.

    `check` is called by the calling thread before the first piece and after each.
    """
    pieces = list(pieces)
    threads = min(len(pieces), threads or available_threads())
    if threads > 1:
        with thread_pool(threads) as pool:
            return collect(pool.map(work, pieces), check)
    return collect(map(work, pieces), check)


@contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Provide a thread pool; leaving the context, as by an error, cancels work not yet started."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def collect(results: Iterable[Result], check: Check) -> list[Result]:
    """Return all results in a list; `check` is called before the first and after each."""
    check()
    collected = []
    for result in results:
        collected.append(result)
        check()
    return collected
