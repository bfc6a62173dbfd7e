"""Working memory that a thread uses again for every group.

Arrays of a megabyte, taken and given back per group, cost more in page faults than the arithmetic
done in them.
"""

import threading

import numpy as np
from numpy.typing import NDArray


class Scratch(threading.local):
    """Arrays that grow as asked for; each thread that touches one has its own."""

    def __init__(self) -> None:
        self._keys = np.empty((2, 0), np.uint32)
        self._sums = np.empty((3, 0))

    def keys(self, size: int) -> NDArray[np.uint32]:
        """Room for the sort keys of so many values, twice: (2, size)."""
        if self._keys.shape[1] < size:
            self._keys = np.empty((2, size), np.uint32)
        return self._keys[:, :size]

    def sums(self, size: int) -> NDArray[np.float64]:
        """Room for so many points and their prefix sums: (3, size + 1)."""
        if self._sums.shape[1] <= size:
            self._sums = np.empty((3, size + 1))
        return self._sums[:, : size + 1]
