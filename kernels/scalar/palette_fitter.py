"""Palettes of single groups: fast mode, clustering, dtype refinement."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.scalar.dtype_refinement import refine_entries
from palettery.kernels.scalar.exact_kmeans import find_centroids
from palettery.kernels.scalar.group_points import GroupPoints
from palettery.kernels.scalar.merging import count_distinct
from palettery.kernels.scalar.scratch_buffers import ScratchBuffers

Floats = NDArray[np.float64]
GroupFits = tuple[tuple[int, bool], ...]
"""For each k: number of path searches, and whether fast mode was accurate enough."""


@dataclass(frozen=True)
class PaletteFitter:
    """Computes palettes of groups, for each of several numbers of entries `ks`.

    `decimals` turns fast mode on. Groups of a sparse weight without stored values get zeros.
    """

    ks: tuple[int, ...]
    decimals: int | None
    dtype: np.dtype[Any]
    """Dtype of the weight."""
    scratch: ScratchBuffers = field(default_factory=ScratchBuffers)

    def fit(self, points: GroupPoints, centroids: tuple[Floats, ...]) -> GroupFits:
        """Fill the centroids of each palette, ascending. Shapes: centroids (k,) for each k."""
        return tuple(
            self._fit(points, k, group_centroids)
            for k, group_centroids in zip(self.ks, centroids, strict=True)
        )

    def _fit(self, points: GroupPoints, k: int, centroids: Floats) -> tuple[int, bool]:
        if points.is_empty:
            centroids[:] = 0
            return 0, True
        rounded = None if self.decimals is None else points.rounded(self.decimals, k)
        if rounded is None or self.dtype.itemsize == 2:
            exact = points.exact
        values, masses = rounded or exact
        sums = self.scratch.sums(values.size)
        paths = find_centroids(values, masses, k, centroids, sums)
        if self.dtype.itemsize == 2:
            centroids[:] = refine_entries(*exact, centroids, self.dtype)
        return paths, rounded is not None or count_distinct(exact[0]) <= k
