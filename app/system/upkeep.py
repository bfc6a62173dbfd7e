"""What a server does between requests: look whether its database is sound, give memory back."""

import asyncio
import ctypes
import logging
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from palettery.app.database.engine import Database

TRIM_EVERY_S = 5.0
GROWN_BYTES = 32 << 20
"""Memory is given back once the process has grown by so much since it was last."""
ARENAS = 2
"""Of the allocator: each thread that is first to find the others busy would get its own, up to
eight for each core, and what is free in one is of no use to others, nor to the machine."""
_M_ARENA_MAX = -8

log = logging.getLogger(__name__)


def limit_arenas() -> None:
    """Have the allocator use few arenas, where it is glibc's."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, ARENAS)


async def keep_up(database: Database, check_every_s: float) -> None:
    """Look after this process until cancelled."""
    await asyncio.gather(
        _repeat(check_every_s, database.check),
        _repeat(TRIM_EVERY_S, _Trim().run),
    )


class _Trim:
    """Gives freed memory back to the machine, which the allocator keeps for long."""

    def __init__(self) -> None:
        self._libc, self._least_bytes = _glibc(), 0

    def run(self) -> None:
        """Give memory back if there may be much of it."""
        if self._libc is None:
            return
        now = resident_bytes()
        if now > self._least_bytes + GROWN_BYTES:
            self._libc.malloc_trim(0)
            now = resident_bytes()
        self._least_bytes = now


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None


def resident_bytes() -> int:
    """Memory of this process; 0 where the kernel does not say."""
    known = Path("/proc/self/statm")
    return int(known.read_text().split()[1]) * resource.getpagesize() if known.exists() else 0


async def _repeat(every_s: float, work: Callable[[], None]) -> None:
    while True:
        try:
            await asyncio.to_thread(work)
        except Exception:
            log.exception("will be tried again")
        await asyncio.sleep(every_s)
