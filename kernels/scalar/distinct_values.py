"""Distinct values of a large group and their exact masses, as long as they are few."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled
from palettery.kernels.scalar.merging import merge_equal

Floats = NDArray[np.float64]

MAX_DISTINCT: Final = 1 << 12
"""Most distinct values that are tabulated."""
_SLOTS: Final = 1 << 13
_HASH_BITS: Final = 13


class DistinctValues:
    """Hash tables of the values of one group, one for each lane.

    A lane with too many distinct values ignores further ones, since the tables are then not used.
    """

    def __init__(self, lanes: int, weighted: bool) -> None:
        self._values = np.zeros((lanes, _SLOTS), np.float32)
        self._counts = np.zeros((lanes, _SLOTS))
        self._masses = np.zeros((lanes, _SLOTS if weighted else 0))
        self._sizes = np.zeros(lanes, np.int64)

    @staticmethod
    def size_bytes(lanes: int, weighted: bool) -> int:
        """Return the size of the tables."""
        return lanes * _SLOTS * (12 + 8 * weighted)

    def add(self, lane: int, values: NDArray[np.float32], mass: Floats) -> None:
        """Count some values. Shapes: values (n,), mass (n,) or (0,)."""
        if self._sizes[lane] <= MAX_DISTINCT:
            tables = self._values[lane], self._counts[lane], self._masses[lane]
            self._sizes[lane] = _add_values(values, mass, *tables, self._sizes[lane])

    def points(self) -> tuple[Floats, Floats] | None:
        """Return ascending values of positive mass, and their masses; None if they are too many.

        If all masses are zero, the masses are the counts.

        Shapes: -> (distinct,), (distinct,).
        """
        if self._sizes.max() > MAX_DISTINCT:
            return None
        masses = self._masses if self._masses.any() else self._counts
        has_mass = masses > 0
        if not has_mass.any():  # no values, as in a sparse group of zeros
            return np.empty(0), np.empty(0)
        values = self._values[has_mass].astype(np.float64)
        order = np.argsort(values, kind="stable")
        distinct = int(np.unique(values).size)
        points, totals = merge_equal(values[order], masses[has_mass][order], distinct)
        return points.astype(np.float64, copy=False), totals / totals.max()


@compiled
def _add_values(
    values: NDArray[np.float32],
    mass: Floats,
    keys: NDArray[np.float32],
    counts: Floats,
    masses: Floats,
    size: int,
) -> int:
    """Add values to the tables until there are too many; return the number of distinct values.

    Shapes: values (n,), mass (n,) or (0,), tables (slots,), masses (slots,) or (0,).
    """
    bits = values.view(np.uint32)
    for i in range(values.size):
        # Fibonacci hashing (Knuth 1973); both zeros are one value.
        hashed_bits = np.uint32(0) if values[i] == 0 else bits[i]
        slot = np.uint32(hashed_bits * np.uint32(0x9E3779B1)) >> np.uint32(32 - _HASH_BITS)
        while counts[slot] > 0 and keys[slot] != values[i]:
            slot = (slot + np.uint32(1)) & np.uint32(_SLOTS - 1)
        if counts[slot] == 0:
            if size == MAX_DISTINCT:
                return size + 1
            keys[slot] = values[i]
            size += 1
        counts[slot] += 1
        if mass.size:
            masses[slot] += mass[i]
    return size
