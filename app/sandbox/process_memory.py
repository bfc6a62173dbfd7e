"""Memory of this process: its size, and returning free memory to the system."""

import ctypes
import resource
import sys
from pathlib import Path

GROWN_BYTES = 32 << 20
"""Growth over the smallest resident size so far at which memory is trimmed."""
ARENAS = 2
"""Maximum number of the allocator's arenas, by default eight per core. Free memory of one arena is
not available to others."""
_M_ARENA_MAX = -8


def limit_arenas() -> None:
    """Limit the arenas of the allocator, if it is glibc's."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, ARENAS)


class MemoryTrimmer:
    """Returns free memory to the system, which the allocator would otherwise keep."""

    def __init__(self) -> None:
        self._libc, self._smallest_bytes = _glibc(), resident_bytes()

    def run(self) -> None:
        """Trim memory if the process is larger than its smallest size so far.

        It is trimmed again even if it has not grown: more memory may be free by now.
        """
        if self._libc is None:
            return
        if resident_bytes() > self._smallest_bytes + GROWN_BYTES:
            self._libc.malloc_trim(0)
        self._smallest_bytes = min(self._smallest_bytes, resident_bytes())


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 if unknown."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else 0
