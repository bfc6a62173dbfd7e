"""Spread independent pieces of work over the cores."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def available_threads() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread(
    work: Callable[[Piece], Result], pieces: Iterable[Piece], threads: int | None
) -> list[Result]:
    """Results of `work` in the order of the pieces, whatever the number of threads."""
    pieces = list(pieces)
    threads = min(len(pieces), threads or available_threads())
    if threads <= 1:
        return [work(piece) for piece in pieces]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, pieces))
