"""The palette of one group after the other."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.errors import NonFiniteError
from palettery.kernels.float16 import FLOAT16
from palettery.kernels.scalar.counting import count, points_of, weigh
from palettery.kernels.scalar.dtype_refinement import settled
from palettery.kernels.scalar.points import count_distinct, merged, solve, worth_merging
from palettery.kernels.scalar.rounding import (
    LARGEST,
    MORE_DECIMALS,
    ROUNDED_PER_ENTRY,
    rounded_points,
    tally,
)
from palettery.kernels.scalar.scratch import Scratch
from palettery.kernels.scalar.sorting import ascending, ascending_order

Floats = NDArray[np.float64]
Codes = NDArray[np.uint16]
Weighed = tuple[NDArray[np.floating], Floats]
"""Ascending values and the mass of each, or no masses where each counts once."""
_NO_MASS = np.empty(0)


@dataclass(frozen=True)
class Fitter:
    """Finds palettes of k entries; `decimals` asks for fast mode.

    Centroids (k,) are filled ascending. What is returned is the number of paths tried, and whether
    fast mode was good enough.
    """

    k: int
    decimals: int | None
    dtype: np.dtype[Any]
    """Of the weight."""
    scratch: Scratch = field(default_factory=Scratch)

    def fit(self, values: NDArray[Any], mass: Floats | None, centroids: Floats) -> tuple[int, bool]:
        """Of values, or two-byte weights by their bits, in any order. Shapes: values, mass (n,)."""
        if values.dtype == np.uint16:
            return self.fit_points(*self._counted(values, mass), centroids)
        if mass is not None and not mass.any():
            mass = None  # nothing matters, so everything matters alike
        rounded = self._rounded(values, mass)
        if rounded is None or self.dtype.itemsize == 2:
            ordered = self._ordered(values, mass)
        paths = self._solve(*(rounded or ordered), centroids)
        if self.dtype.itemsize == 2:
            centroids[:] = settled(*ordered, centroids, self.dtype)
        return paths, rounded is not None or count_distinct(ordered[0]) <= self.k

    def fit_points(
        self,
        points: NDArray[np.floating],
        masses: Floats,
        codes: Codes | None,
        centroids: Floats,
    ) -> tuple[int, bool]:
        """Of ascending distinct points; `codes` are their bits where the dtype has two bytes.

        Shapes: (n,) each.
        """
        rounded = self._rounded_points(points, masses, codes)
        paths = self._solve(*(rounded or (points, masses)), centroids)
        if self.dtype.itemsize == 2:
            centroids[:] = settled(points, masses, centroids, self.dtype)
        return paths, rounded is not None or points.size <= self.k

    def settle(self, values: NDArray[Any], mass: Floats | None, centroids: Floats) -> None:
        """Move centroids found elsewhere to the best that the weight's dtype can hold."""
        if values.dtype == np.uint16:
            points, masses, _ = self._counted(values, mass)
        else:
            points, masses = self._ordered(values, mass if mass is None or mass.any() else None)
        centroids[:] = settled(points, masses, centroids, self.dtype)

    def _counted(
        self, codes: Codes, mass: Floats | None
    ) -> tuple[NDArray[np.float32], Floats, Codes]:
        counts, masses = self.scratch.counts(), _NO_MASS
        count(codes, counts)
        if mass is not None:
            masses = self.scratch.masses()
            weigh(codes, mass, masses)
        return points_of(counts, masses, self.dtype, self.scratch)

    def _rounded(self, values: NDArray[np.floating], mass: Floats | None) -> Weighed | None:
        """Distinct rounded values and their masses; None where there would be too few."""
        if self.decimals is None or not max(values.max(), -values.min()) <= LARGEST:
            return None
        for decimals in range(self.decimals, self.decimals + MORE_DECIMALS + 1):
            distinct, masses = tally(values, mass, decimals)
            if distinct.size >= ROUNDED_PER_ENTRY * self.k:
                return distinct, masses / masses.max()
        return None

    def _rounded_points(
        self, points: NDArray[np.floating], masses: Floats, codes: Codes | None
    ) -> Weighed | None:
        """The same of ascending points."""
        if self.decimals is None or not max(points[-1], -points[0]) <= LARGEST:
            return None
        halves = codes if self.dtype == FLOAT16 else None
        for decimals in range(self.decimals, self.decimals + MORE_DECIMALS + 1):
            distinct, totals = rounded_points(points, masses, halves, decimals)
            if distinct.size >= ROUNDED_PER_ENTRY * self.k:
                return distinct, totals / totals.max()
        return None

    def _ordered(self, values: NDArray[np.floating], mass: Floats | None) -> Weighed:
        """Ascending values and their masses, without those of no mass; many equal ones as one."""
        if mass is None:
            ordered = ascending(values, self.scratch)
            if not (np.isfinite(ordered[0]) and np.isfinite(ordered[-1])):
                raise NonFiniteError
            distinct = count_distinct(ordered)
            if worth_merging(ordered.size, distinct):
                return merged(ordered, _NO_MASS, distinct)
            return ordered, _NO_MASS
        if not np.isfinite(values).all():
            raise NonFiniteError
        order = ascending_order(values)
        masses = mass[order]
        weighty = masses > 0
        return values[order][weighty], masses[weighty] / masses.max()

    def _solve(self, points: NDArray[np.floating], masses: Floats, centroids: Floats) -> int:
        return solve(points, masses, self.k, centroids, self.scratch.sums(points.size))
