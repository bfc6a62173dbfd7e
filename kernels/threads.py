"""Parallel execution of independent pieces of work in a thread pool."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from threading import Lock
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Piece = TypeVar("Piece")
Result = TypeVar("Result")
CancellationCheck = Callable[[], None]
"""Function that is called regularly; it raises an exception to cancel the work."""


def never_cancel() -> None:
    """Do nothing, so that the work is never cancelled."""


@cache
def available_threads() -> int:
    """Return how many cores this process may use, by its CPU affinity and its cgroup's quota."""
    from dask.system import CPU_COUNT  # a slow import

    return CPU_COUNT


def parallel_map(
    work: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    threads: int | None,
    check_cancelled: CancellationCheck = never_cancel,
) -> list[Result]:
    """Return the results of `work` for all pieces, in their order.

    `check_cancelled` is called by the calling thread before the first piece and after each.
    """
    pieces = list(pieces)
    threads = min(len(pieces), threads or available_threads())
    if threads > 1:
        with thread_pool(threads) as pool:
            return collect(pool.map(work, pieces), check_cancelled)
    return collect(map(work, pieces), check_cancelled)


@contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Provide a thread pool; on leaving the context, work that has not started is cancelled."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class _SharedBlasLimit:
    """Context in which BLAS uses one thread; it may be entered by several threads at once."""

    def __init__(self) -> None:
        self._lock, self._users = Lock(), 0
        self._stack = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                limit = ThreadpoolController().limit(limits=1, user_api="blas")
                self._stack.enter_context(limit)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._stack.close()


_BLAS_LIMIT = _SharedBlasLimit()


def single_blas_thread() -> AbstractContextManager[None]:
    """Return a context in which each matrix product of this process uses one thread.

    The products run side by side in a thread pool, so more threads per product would only compete.
    """
    return _BLAS_LIMIT


def collect(results: Iterable[Result], check_cancelled: CancellationCheck) -> list[Result]:
    """Return all results in a list; `check_cancelled` is called before the first and after each."""
    check_cancelled()
    collected = []
    for result in results:
        collected.append(result)
        check_cancelled()
    return collected
