"""Palettes of single groups: fast mode, sorting or counting, clustering, dtype refinement."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.errors import NonFiniteError
from palettery.kernels.float16 import FLOAT16
from palettery.kernels.scalar.counting import add_masses, count_codes, distinct_points
from palettery.kernels.scalar.dtype_refinement import refine_entries
from palettery.kernels.scalar.exact_kmeans import find_centroids
from palettery.kernels.scalar.merging import count_distinct, is_worth_merging, merge_equal
from palettery.kernels.scalar.rounding import (
    LARGEST_FLOAT16,
    MORE_DECIMALS,
    ROUNDED_PER_ENTRY,
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


@dataclass(frozen=True)
class PaletteFitter:
    """Computes palettes of k entries, group by group; `decimals` turns fast mode on.

    Methods fill the centroids (k,), ascending, and return the number of paths searched and whether
    fast mode was accurate enough.
    """

    k: int
    decimals: int | None
    dtype: np.dtype[Any]
    """Dtype of the weight."""
    scratch: ScratchBuffers = field(default_factory=ScratchBuffers)

    def fit(self, values: NDArray[Any], mass: Floats | None, centroids: Floats) -> tuple[int, bool]:
        """Fit values, or codes of two-byte weights, in any order. Shapes: values, mass (n,)."""
        if values.dtype == np.uint16:
            return self.fit_points(*self._count(values, mass), centroids)
        if mass is not None and not mass.any():
            mass = None  # all masses are zero: count equally
        rounded = self._round(values, mass)
        if rounded is None or self.dtype.itemsize == 2:
            exact = self._sort(values, mass)
        paths = self._find_centroids(*(rounded or exact), centroids)
        if self.dtype.itemsize == 2:
            centroids[:] = refine_entries(*exact, centroids, self.dtype)
        return paths, rounded is not None or count_distinct(exact[0]) <= self.k

    def fit_points(
        self,
        points: NDArray[np.floating],
        masses: Floats,
        codes: Codes | None,
        centroids: Floats,
    ) -> tuple[int, bool]:
        """Fit ascending distinct points; `codes` are theirs if the dtype has two bytes.

        Shapes: (n,) each.
        """
        rounded = self._round_points(points, masses, codes)
        paths = self._find_centroids(*(rounded or (points, masses)), centroids)
        if self.dtype.itemsize == 2:
            centroids[:] = refine_entries(points, masses, centroids, self.dtype)
        return paths, rounded is not None or points.size <= self.k

    def refine(self, values: NDArray[Any], mass: Floats | None, centroids: Floats) -> None:
        """Move centroids to the best values of the weight's dtype, in place."""
        if values.dtype == np.uint16:
            points, masses, _ = self._count(values, mass)
        else:
            points, masses = self._sort(values, mass if mass is None or mass.any() else None)
        centroids[:] = refine_entries(points, masses, centroids, self.dtype)

    def _count(
        self, codes: Codes, mass: Floats | None
    ) -> tuple[NDArray[np.float32], Floats, Codes]:
        counts, masses = self.scratch.counts(), _NO_MASS
        count_codes(codes, counts)
        if mass is not None:
            masses = self.scratch.masses()
            add_masses(codes, mass, masses)
        return distinct_points(counts, masses, self.dtype, self.scratch)

    def _round(self, values: NDArray[np.floating], mass: Floats | None) -> WeightedValues | None:
        """Return the distinct rounded values and their masses; None if there are too few."""
        if self.decimals is None or not max(values.max(), -values.min()) <= LARGEST_FLOAT16:
            return None
        for decimals in range(self.decimals, self.decimals + MORE_DECIMALS + 1):
            distinct, masses = count_rounded(values, mass, decimals)
            if distinct.size >= ROUNDED_PER_ENTRY * self.k:
                return distinct, masses / masses.max()
        return None

    def _round_points(
        self, points: NDArray[np.floating], masses: Floats, codes: Codes | None
    ) -> WeightedValues | None:
        """Return distinct rounded values of ascending points and masses; None if too few."""
        if self.decimals is None or not max(points[-1], -points[0]) <= LARGEST_FLOAT16:
            return None
        float16_codes = codes if self.dtype == FLOAT16 else None
        for decimals in range(self.decimals, self.decimals + MORE_DECIMALS + 1):
            distinct, totals = round_points(points, masses, float16_codes, decimals)
            if distinct.size >= ROUNDED_PER_ENTRY * self.k:
                return distinct, totals / totals.max()
        return None

    def _sort(self, values: NDArray[np.floating], mass: Floats | None) -> WeightedValues:
        """Return ascending values with mass, and their masses; many equal ones are merged."""
        if mass is None:
            ordered = sort_values(values, self.scratch)
            if not (np.isfinite(ordered[0]) and np.isfinite(ordered[-1])):
                raise NonFiniteError
            distinct = count_distinct(ordered)
            if is_worth_merging(ordered.size, distinct):
                return merge_equal(ordered, _NO_MASS, distinct)
            return ordered, _NO_MASS
        if not np.isfinite(values).all():
            raise NonFiniteError
        order = sort_order(values)
        masses = mass[order]
        present = masses > 0
        return values[order][present], masses[present] / masses.max()

    def _find_centroids(
        self, points: NDArray[np.floating], masses: Floats, centroids: Floats
    ) -> int:
        return find_centroids(points, masses, self.k, centroids, self.scratch.sums(points.size))
