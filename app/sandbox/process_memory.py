"""Memory of this process: how much it has, and how it is given back to the machine."""

import ctypes
import resource
import sys
from pathlib import Path

GROWN_BYTES = 32 << 20
"""Memory is given back once the process has grown by this much since the last time."""
ARENAS = 2
"""Arenas of the allocator. Without a limit a thread that finds the others busy gets its own, up to
eight for each core, and memory that is free in one arena is of no use to others."""
_M_ARENA_MAX = -8


def limit_arenas() -> None:
    """Have the allocator use few arenas, where it is glibc's."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, ARENAS)


class MemoryTrimmer:
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
