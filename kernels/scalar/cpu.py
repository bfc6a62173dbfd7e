"""Scalar palettes on the CPU: optimal centroids of every group, and nearest entries."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.errors import NonFiniteError
from kernels.scalar.assign import assign, measure, thresholds_of
from kernels.scalar.binning import binned
from kernels.scalar.points import count_distinct, merged, solve
from kernels.scalar.rounding import LARGEST, MORE_DECIMALS, ROUNDED_PER_ENTRY, tally
from kernels.scalar.scratch import Scratch
from kernels.scalar.settle import settled
from kernels.scalar.sorting import ascending, ascending_order
from kernels.source import Source
from kernels.threads import spread

BATCH = 1 << 16
"""Elements that one piece of work takes at least, group size permitting."""
PIECE = 1 << 18
"""Elements of a large group that are read at a time."""
LARGEST_SORTED = 1 << 19
"""Elements of a group up to which its values are sorted; more are binned."""
_NO_MASS = np.empty(0)


@dataclass(frozen=True)
class Fit:
    """Optimal centroids (groups, K), ascending, and how they came about."""

    centroids: NDArray[np.float64]
    iterations: int
    left_fast_mode: int
    """Groups clustered exactly although fast mode was asked for."""


@dataclass(frozen=True)
class Assignment:
    """Nearest entries and their errors, per group."""

    indices: NDArray[np.uint8]
    sse: NDArray[np.float64]
    signal: NDArray[np.float64]
    max_error: NDArray[np.float64]
    occupancy: NDArray[np.int64]


def cluster(
    source: Source,
    k: int,
    sensitivity: NDArray[np.floating] | None,
    decimals: int | None,
    threads: int | None,
) -> Fit:
    """Optimal palettes of every group; `decimals` asks for fast mode.

    Shapes: sensitivity like the weight.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    layout = source.layout
    centroids = np.empty((layout.groups, k))
    fitter = _Fitter(k, decimals, source.weight.dtype)

    def run(groups: range) -> tuple[int, int]:
        values = source.entries(groups)
        masses = None if sensitivity is None else layout.take(sensitivity, groups)
        most = left = 0
        for row, group in enumerate(groups):
            mass = None if masses is None else masses[row]
            paths, fast = fitter.fit(values[row], mass, centroids[group])
            most = max(most, paths)
            left += not fast
        return most, left

    def run_large(group: int) -> tuple[int, int]:
        """Like `run` for one group, read in pieces; rounding is done on the bins' means."""
        means, masses = _bins(source, group, sensitivity, k, threads)
        paths, fast = fitter.fit(means, masses, centroids[group])
        return paths, not fast

    if layout.elements > LARGEST_SORTED and source.weight.dtype != np.float64:
        done = [run_large(group) for group in range(layout.groups)]
    else:
        done = spread(run, layout.batches(BATCH), threads)
    left_fast_mode = 0 if decimals is None else sum(left for _, left in done)
    return Fit(centroids, max(most for most, _ in done), left_fast_mode)


def settle_groups(
    source: Source,
    sensitivity: NDArray[np.floating] | None,
    centroids: NDArray[np.float64],
    threads: int | None,
) -> None:
    """Move the centroids (groups, K) of a two-byte weight to the best that its dtype can hold."""
    layout = source.layout
    fitter = _Fitter(centroids.shape[1], None, source.weight.dtype)

    def run(groups: range) -> None:
        values = source.entries(groups)
        masses = None if sensitivity is None else layout.take(sensitivity, groups)
        for row, group in enumerate(groups):
            fitter.settle(values[row], None if masses is None else masses[row], centroids[group])

    spread(run, layout.batches(BATCH), threads)


@dataclass(frozen=True)
class _Fitter:
    """Fills the centroids of one group after the other."""

    k: int
    decimals: int | None
    dtype: np.dtype[Any]
    scratch: Scratch = field(default_factory=Scratch)

    def fit(
        self,
        values: NDArray[np.floating],
        mass: NDArray[np.floating] | None,
        centroids: NDArray[np.float64],
    ) -> tuple[int, bool]:
        """Fill one group's centroids; the paths tried, and whether fast mode was good enough."""
        if mass is not None and not mass.any():
            mass = None  # nothing matters, so everything matters alike
        rounded = self._rounded(values, mass)
        if rounded is None or self.dtype.itemsize == 2:
            ordered = self._ordered(values, mass)
        paths = self._solve(*(rounded or ordered), centroids)
        if self.dtype.itemsize == 2:
            centroids[:] = settled(*ordered, centroids, self.dtype)
        return paths, rounded is not None or count_distinct(ordered[0]) <= self.k

    def settle(
        self,
        values: NDArray[np.floating],
        mass: NDArray[np.floating] | None,
        centroids: NDArray[np.float64],
    ) -> None:
        """Move centroids found elsewhere to the best that the weight's dtype can hold."""
        if mass is not None and not mass.any():
            mass = None
        centroids[:] = settled(*self._ordered(values, mass), centroids, self.dtype)

    def _rounded(
        self, values: NDArray[np.floating], mass: NDArray[np.floating] | None
    ) -> tuple[NDArray[np.floating], NDArray[np.float64]] | None:
        """Distinct rounded values and their masses; None where there would be too few."""
        if self.decimals is None or not max(values.max(), -values.min()) <= LARGEST:
            return None
        for decimals in range(self.decimals, self.decimals + MORE_DECIMALS + 1):
            distinct, masses = tally(values, mass, decimals)
            if distinct.size >= ROUNDED_PER_ENTRY * self.k:
                return distinct, masses / masses.max()
        return None

    def _ordered(
        self, values: NDArray[np.floating], mass: NDArray[np.floating] | None
    ) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
        """Ascending values and their masses, without those of no mass; many equal ones as one."""
        if mass is None:
            ordered = ascending(values, self.scratch)
            if not (np.isfinite(ordered[0]) and np.isfinite(ordered[-1])):
                raise NonFiniteError
            distinct = count_distinct(ordered)
            if 2 * distinct <= ordered.size:
                return merged(ordered, _NO_MASS, distinct)
            return ordered, _NO_MASS
        if not np.isfinite(values).all():
            raise NonFiniteError
        order = ascending_order(values)
        masses = mass.astype(np.float64)[order]
        weighty = masses > 0
        return values[order][weighty], masses[weighty] / masses.max()

    def _solve(
        self,
        points: NDArray[np.floating],
        masses: NDArray[np.float64],
        centroids: NDArray[np.float64],
    ) -> int:
        return solve(points, masses, self.k, centroids, self.scratch.sums(points.size))


def _bins(
    source: Source,
    group: int,
    sensitivity: NDArray[np.floating] | None,
    k: int,
    threads: int | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and masses of fine bins of one group."""
    layout, groups = source.layout, range(group, group + 1)

    def read(rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        values = source.entries(groups, rows)[0]
        if sensitivity is None:
            return values, _NO_MASS
        return values, layout.take(sensitivity, groups, rows)[0].astype(np.float64)

    return binned(read, layout.rows(PIECE), k, threads)


def nearest(source: Source, lut: NDArray[np.floating], threads: int | None) -> Assignment:
    """Index of the entry nearest to every value, the upper one on ties.

    Shapes: lut (groups, K), each group ascending.
    """
    layout = source.layout
    count, k = lut.shape
    thresholds = thresholds_of(lut)
    indices = np.empty(layout.shape, np.uint8)
    whole = slice(None)
    pieces = [(groups, whole) for groups in layout.batches(BATCH)]
    if layout.elements > PIECE:
        rows = layout.rows(PIECE)
        pieces = [(groups, piece) for groups, _ in pieces for piece in rows]

    def run(piece: tuple[range, slice]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        groups, rows = piece
        values = source.values(groups, rows)
        cells = layout.take(indices, groups, rows)
        sums, occupancy = np.empty((len(groups), 3)), np.zeros((len(groups), k), np.int64)
        for row, group in enumerate(groups):
            assign(values[row], thresholds[group], cells[row])
            sums[row] = measure(values[row], cells[row], lut[group], occupancy[row])
        layout.put(indices, groups, cells, rows)
        return sums, occupancy

    sums, occupancy = np.zeros((count, 3)), np.zeros((count, k), np.int64)
    for (groups, _), (part, counts) in zip(pieces, spread(run, pieces, threads), strict=True):
        at = slice(groups.start, groups.stop)
        sums[at, :2] += part[:, :2]
        sums[at, 2] = np.maximum(sums[at, 2], part[:, 2])
        occupancy[at] += counts
    return Assignment(indices, sums[:, 0], sums[:, 1], sums[:, 2], occupancy)
