"""Memory of this process: its size, and returning free memory to the system."""

import ctypes
import resource
import sys
from pathlib import Path

GROWN_BYTES = 32 << 20
"""Growth since the last trim from which on memory is trimmed again."""
ARENAS = 2
"""Arenas of the allocator. Without a limit there are up to eight per core, one per busy thread, and
free memory of one arena is not available to others."""
_M_ARENA_MAX = -8


def limit_arenas() -> None:
    """Limit the arenas of the allocator, if it is glibc's."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, ARENAS)


class MemoryTrimmer:
    """Returns free memory to the system, which the allocator would otherwise keep."""

    def __init__(self) -> None:
        self._libc, self._last_bytes = _glibc(), 0

    def run(self) -> None:
        """Trim memory if the process has grown."""
        if self._libc is None:
            return
        now = resident_bytes()
        if now > self._last_bytes + GROWN_BYTES:
            self._libc.malloc_trim(0)
            now = resident_bytes()
        self._last_bytes = now


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 if unknown."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else 0
