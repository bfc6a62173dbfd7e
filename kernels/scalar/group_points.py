"""Points of one group, exact or rounded, for palettes of several numbers of entries.

Each form is computed when a palette first needs it, and cached for the others.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.errors import NonFiniteError
from palettery.kernels.float16 import FLOAT16
from palettery.kernels.scalar.counting import add_masses, count_codes, distinct_points
from palettery.kernels.scalar.merging import count_distinct, is_worth_merging, merge_equal
from palettery.kernels.scalar.rounding import (
    LARGEST_FLOAT16,
    MAX_EXTRA_DECIMALS,
    MIN_VALUES_PER_ENTRY,
    count_rounded,
    round_points,
)
from palettery.kernels.scalar.scratch_buffers import ScratchBuffers
from palettery.kernels.scalar.sorting import sort_order, sort_values

Floats = NDArray[np.float64]
Codes = NDArray[np.uint16]
WeightedValues = tuple[NDArray[np.floating], Floats]
"""Ascending values and the mass of each, or no masses if all are equal."""
_NO_MASS = np.empty(0)


class GroupPoints(ABC):
    """Points of one group, maybe in scratch buffers that the thread's next group overwrites."""

    def __init__(self) -> None:
        self._by_decimals: dict[int, WeightedValues] = {}

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """Whether there are no points, as in a group of zeros of a sparse weight."""

    @property
    @abstractmethod
    def exact(self) -> WeightedValues:
        """Ascending values and their masses.

        Raises:
            NonFiniteError: a value is NaN or infinite.
        """

    @property
    @abstractmethod
    def largest(self) -> float:
        """Largest magnitude; NaN if a value is."""

    @abstractmethod
    def round_to(self, decimals: int) -> WeightedValues:
        """Return the distinct rounded values, ascending, and the count or mass of each."""

    def rounded(self, decimals: int, k: int) -> WeightedValues | None:
        """Return distinct rounded values and their masses; None if they are too few for k entries.

        Up to `MAX_EXTRA_DECIMALS` decimals are added until there are enough values.
        """
        if not self.largest <= LARGEST_FLOAT16:
            return None
        for tried_decimals in range(decimals, decimals + MAX_EXTRA_DECIMALS + 1):
            if tried_decimals not in self._by_decimals:
                values, masses = self.round_to(tried_decimals)
                self._by_decimals[tried_decimals] = values, masses / masses.max()
            if self._by_decimals[tried_decimals][0].size >= MIN_VALUES_PER_ENTRY * k:
                return self._by_decimals[tried_decimals]
        return None


class ValuePoints(GroupPoints):
    """Points of values in any order. Shapes: values, mass (n,)."""

    def __init__(
        self, values: NDArray[np.floating], mass: Floats | None, scratch: ScratchBuffers
    ) -> None:
        super().__init__()
        self._values, self._scratch = values, scratch
        self._mass = mass if mass is None or mass.any() else None  # all masses zero: equal masses

    @property
    def is_empty(self) -> bool:
        """Whether there are no points."""
        return not self._values.size

    @cached_property
    def exact(self) -> WeightedValues:
        """Ascending values of positive mass, and their masses; equal values are merged if many.

        Raises:
            NonFiniteError: a value is NaN or infinite.
        """
        values, mass = self._values, self._mass
        if mass is None:
            sorted_values = sort_values(values, self._scratch)
            if not (np.isfinite(sorted_values[0]) and np.isfinite(sorted_values[-1])):
                raise NonFiniteError
            distinct = count_distinct(sorted_values)
            if is_worth_merging(sorted_values.size, distinct):
                return merge_equal(sorted_values, _NO_MASS, distinct)
            return sorted_values, _NO_MASS
        if not np.isfinite(values).all():
            raise NonFiniteError
        order = sort_order(values)
        masses = mass[order]
        has_mass = masses > 0
        return values[order][has_mass], masses[has_mass] / masses.max()

    @cached_property
    def largest(self) -> float:
        """Largest magnitude; NaN if a value is."""
        return float(max(self._values.max(), -self._values.min()))

    def round_to(self, decimals: int) -> WeightedValues:
        """Return the distinct rounded values, ascending, and the count or mass of each."""
        return count_rounded(self._values, self._mass, decimals, self.largest)


class DistinctPoints(GroupPoints):
    """Ascending distinct points, with their codes if the dtype has two bytes. Shapes: (n,)."""

    def __init__(
        self,
        points: NDArray[np.floating],
        masses: Floats,
        codes: Codes | None,
        dtype: np.dtype[Any],
    ) -> None:
        super().__init__()
        self._points, self._masses = points, masses
        self._float16_codes = codes if dtype == FLOAT16 else None

    @property
    def is_empty(self) -> bool:
        """Whether there are no points."""
        return not self._points.size

    @property
    def exact(self) -> WeightedValues:
        """Ascending values and their masses."""
        return self._points, self._masses

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return float(max(self._points[-1], -self._points[0]))

    def round_to(self, decimals: int) -> WeightedValues:
        """Return the distinct rounded values, ascending, and the mass of each."""
        return round_points(self._points, self._masses, self._float16_codes, decimals)


def group_points(
    values: NDArray[Any], mass: Floats | None, dtype: np.dtype[Any], scratch: ScratchBuffers
) -> GroupPoints:
    """Return the points of values, or of codes of two-byte weights. Shapes: values, mass (n,).

    Raises:
        NonFiniteError: codes of NaN or infinity were counted.
    """
    if values.dtype != np.uint16:
        return ValuePoints(values, mass, scratch)
    counts, masses = scratch.counts(), _NO_MASS
    count_codes(values, counts)
    if mass is not None:
        masses = scratch.masses()
        add_masses(values, mass, masses)
    return DistinctPoints(*distinct_points(counts, masses, dtype, scratch), dtype)
