"""Scratch arrays that each thread reuses for every group.

To allocate and free arrays of a megabyte for every group takes more time, in page faults, than the
arithmetic on them.
"""

import threading

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.float16 import CODES


class ScratchBuffers(threading.local):
    """Arrays that grow on demand; each thread has its own."""

    def __init__(self) -> None:
        self._keys = np.empty((2, 0), np.uint32)
        self._sums = np.empty(0)
        self._points = np.empty(0, np.float32)
        self._weights, self._codes = np.empty(0), np.empty(0, np.uint16)
        self._counts, self._masses = np.empty(0, np.uint32), np.empty(0)

    def keys(self, size: int) -> NDArray[np.uint32]:
        """Return two arrays for the sort keys of `size` values: (2, size)."""
        if self._keys.shape[1] < size:
            self._keys = np.empty((2, size), np.uint32)
        return self._keys[:, :size]

    def sums(self, size: int) -> NDArray[np.float64]:
        """Return arrays for `size` points and their prefix sums: (3, size + 1)."""
        needed = 3 * (size + 1)
        if self._sums.size < needed:
            self._sums = np.empty(needed)
        return self._sums[:needed].reshape(3, -1)

    def points(
        self, size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.uint16]]:
        """Return arrays for `size` distinct values, their masses and their codes."""
        if self._points.size < size:
            self._points, self._weights = np.empty(size, np.float32), np.empty(size)
            self._codes = np.empty(size, np.uint16)
        return self._points, self._weights, self._codes

    def counts(self) -> NDArray[np.uint32]:
        """Return a table of zeros, one for each code; callers must reset it to zeros."""
        if not self._counts.size:
            self._counts = np.zeros(CODES, np.uint32)
        return self._counts

    def masses(self) -> NDArray[np.float64]:
        """Return a table of float64 zeros, one for each code; callers must reset it to zeros."""
        if not self._masses.size:
            self._masses = np.zeros(CODES)
        return self._masses
