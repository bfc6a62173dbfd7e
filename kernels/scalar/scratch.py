"""Working memory that a thread uses again for every group.

Arrays of a megabyte, taken and given back per group, cost more in page faults than the arithmetic
done in them.
"""

import threading

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.float16 import CODES


class Scratch(threading.local):
    """Arrays that grow as asked for; each thread that touches one has its own."""

    def __init__(self) -> None:
        self._keys = np.empty((2, 0), np.uint32)
        self._sums = np.empty(0)
        self._points = np.empty(0, np.float32)
        self._weights, self._codes = np.empty(0), np.empty(0, np.uint16)
        self._counts, self._masses = np.empty(0, np.uint32), np.empty(0)

    def keys(self, size: int) -> NDArray[np.uint32]:
        """Room for the sort keys of so many values, twice: (2, size)."""
        if self._keys.shape[1] < size:
            self._keys = np.empty((2, size), np.uint32)
        return self._keys[:, :size]

    def sums(self, size: int) -> NDArray[np.float64]:
        """Room for so many points and their prefix sums: (3, size + 1)."""
        needed = 3 * (size + 1)
        if self._sums.size < needed:
            self._sums = np.empty(needed)
        return self._sums[:needed].reshape(3, -1)

    def points(
        self, size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.uint16]]:
        """Room for so many distinct values, their masses and their bits."""
        if self._points.size < size:
            self._points, self._weights = np.empty(size, np.float32), np.empty(size)
            self._codes = np.empty(size, np.uint16)
        return self._points, self._weights, self._codes

    def counts(self) -> NDArray[np.uint32]:
        """A table of zeros, one per two-byte pattern; to be left as zeros."""
        if not self._counts.size:
            self._counts = np.zeros(CODES, np.uint32)
        return self._counts

    def masses(self) -> NDArray[np.float64]:
        """Another, of float64."""
        if not self._masses.size:
            self._masses = np.zeros(CODES)
        return self._masses
