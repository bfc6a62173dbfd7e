"""Scalar palettes on the CPU: optimal centroids of every group, and nearest entries."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.errors import NonFiniteError
from kernels.scalar.assign import assign, measure, thresholds_of
from kernels.scalar.binning import binned
from kernels.scalar.points import solve
from kernels.scalar.rounding import LARGEST, tally
from kernels.scalar.settle import settled
from kernels.source import Source
from kernels.threads import spread

BATCH = 1 << 16
"""Elements that one piece of work takes at least, group size permitting."""
PIECE = 1 << 18
"""Elements of a large group that are read at a time."""
LARGEST_SORTED = 1 << 19
"""Elements of a group up to which its values are sorted; more are binned."""
ROUNDED_PER_ENTRY = 8
"""Distinct rounded values per palette entry that fast mode needs.

With fewer, many partitions of the rounded values cost the same and those of the weights do not.
"""
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
    dtype = source.weight.dtype
    large = layout.elements > LARGEST_SORTED and source.weight.dtype != np.float64

    def run(groups: range) -> tuple[int, int]:
        values = source.entries(groups)
        masses = None if sensitivity is None else layout.take(sensitivity, groups)
        most = left = 0
        for row, group in enumerate(groups):
            mass = None if masses is None else masses[row]
            passes, fast = _fit(values[row], mass, k, decimals, centroids[group], dtype)
            most = max(most, passes)
            left += decimals is not None and not fast
        return most, left

    if large:
        done = [
            _fit_large(source, group, sensitivity, k, decimals, centroids[group], threads)
            for group in range(layout.groups)
        ]
    else:
        done = spread(run, layout.batches(BATCH), threads)
    return Fit(centroids, max(most for most, _ in done), sum(left for _, left in done))


def _fit(
    values: NDArray[np.floating],
    mass: NDArray[np.floating] | None,
    k: int,
    decimals: int | None,
    centroids: NDArray[np.float64],
    dtype: np.dtype[Any],
) -> tuple[int, bool]:
    """Fill one group's centroids; returns passes and whether fast mode was used."""
    if mass is not None and not mass.any():
        mass = None  # nothing matters, so everything matters alike
    if decimals is not None and float(np.abs(values).max()) <= LARGEST:
        coarse, masses = tally(values, mass, decimals)
        if coarse.size >= ROUNDED_PER_ENTRY * k or coarse.size >= len(np.unique(values)):
            passes = solve(coarse, masses / masses.max(), k, centroids)
            if dtype.itemsize == 2:
                centroids[:] = settled(*_ordered(values, mass), centroids, dtype)
            return passes, True
    ordered, masses = _ordered(values, mass)
    if not (np.isfinite(ordered[0]) and np.isfinite(ordered[-1])):
        raise NonFiniteError
    passes = solve(ordered, masses, k, centroids)
    if dtype.itemsize == 2:
        centroids[:] = settled(ordered, masses, centroids, dtype)
    return passes, False


def _ordered(
    values: NDArray[np.floating], mass: NDArray[np.floating] | None
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """Ascending values and their masses, without those of no mass."""
    if mass is None:
        return np.sort(values), _NO_MASS
    order = np.argsort(values, kind="stable")
    masses = mass.astype(np.float64)[order]
    weighty = masses > 0
    if not np.isfinite(values[order[-1]]):
        raise NonFiniteError
    return values[order][weighty], masses[weighty] / masses.max()


def _fit_large(
    source: Source,
    group: int,
    sensitivity: NDArray[np.floating] | None,
    k: int,
    decimals: int | None,
    centroids: NDArray[np.float64],
    threads: int | None,
) -> tuple[int, int]:
    """Like `_fit` for a group that is read in pieces; rounding is done on the bins' means."""
    layout, groups = source.layout, range(group, group + 1)

    def read(rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        values = source.entries(groups, rows)[0]
        if sensitivity is None:
            return values, _NO_MASS
        return values, layout.take(sensitivity, groups, rows)[0].astype(np.float64)

    means, masses = binned(read, layout.rows(PIECE), threads)
    passes, fast = _fit(means, masses, k, decimals, centroids, source.weight.dtype)
    return passes, decimals is not None and not fast


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
