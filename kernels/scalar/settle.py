"""Palettes in a two-byte dtype: move entries along what the dtype can hold.

Rounding optimal centroids to the dtype leaves a palette that is no longer the best of those the
dtype can hold, most of all at 8 bits. Trying each entry one step down and one up, with the values
around it going to whichever entry is nearest, mends that.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.arrays import BFLOAT16
from kernels.jit import compiled, compiled_inline
from kernels.scalar.direct import cell_costs, cheapest_cuts
from kernels.scalar.points import count_distinct, merged

Floats = NDArray[np.float64]

MAX_SWEEPS = 12
FEW_POINTS = 512
"""Distinct values up to which cells are also chosen by their error about rounded means.

With few values and a coarse dtype many partitions tie, and rounding decides between them.
"""


def settled(
    values: NDArray[np.floating], mass: Floats, centroids: Floats, dtype: np.dtype[Any]
) -> Floats:
    """Entries the dtype holds, from which no single step lowers the error.

    Shapes: values ascending (n,), mass (n,) or (0,), centroids (K,) ascending -> (K,).
    """
    sums = _sums(values, mass)
    best = _descended(values, sums, centroids.astype(dtype))
    distinct = count_distinct(values)
    if len(centroids) < distinct <= FEW_POINTS:
        points, weights = merged(values, mass, distinct)
        start = _rounded_optimum(points.astype(np.float64), weights, len(centroids), dtype)
        other = _descended(values, sums, start)
        if total_error(values, sums, other) < total_error(values, sums, best):
            return other
    return best


def _rounded_optimum(points: Floats, mass: Floats, k: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Entries of the best cells when each cell has its mean rounded to the dtype as entry."""
    costs, means = cell_costs(points, mass)
    entries = means.astype(dtype)
    weights = np.concatenate(([0.0], np.cumsum(mass)))
    costs += np.abs(weights[None, :] - weights[:-1, None]) * (means - entries) ** 2
    cuts = cheapest_cuts(costs, k)
    return entries[cuts[:-1], cuts[1:]]


def _descended(values: NDArray[np.floating], sums: Floats, entries: NDArray[Any]) -> Floats:
    dtype = entries.dtype
    for _ in range(MAX_SWEEPS):
        wide = entries.astype(np.float64)
        below = _stepped(entries, -1).astype(np.float64)
        above = _stepped(entries, 1).astype(np.float64)
        if not _sweep(values, sums, wide, below, above):
            break
        entries = wide.astype(dtype)
    return entries.astype(np.float64)


def _stepped(entries: NDArray[Any], step: int) -> NDArray[Any]:
    """The next number that the dtype holds, down or up; finite numbers stay finite."""
    toward = entries.dtype.type(np.inf if step > 0 else -np.inf)
    if entries.dtype == BFLOAT16:
        moved = np.nextafter(entries, np.full_like(entries, toward))
    else:
        moved = np.nextafter(entries, toward)
    return np.where(np.isfinite(moved.astype(np.float32)), moved, entries)


@compiled
def _sums(values: NDArray[np.floating], mass: Floats) -> Floats:
    """Sums of w, w x and w x^2 before each position, (n+1, 3)."""
    sums = np.zeros((values.size + 1, 3))
    for i in range(values.size):
        w, x = mass[i] if mass.size else 1.0, float(values[i])
        sums[i + 1, 0] = sums[i, 0] + w
        sums[i + 1, 1] = sums[i, 1] + w * x
        sums[i + 1, 2] = sums[i, 2] + w * x * x
    return sums


@compiled
def _sweep(
    values: NDArray[np.floating], sums: Floats, entries: Floats, below: Floats, above: Floats
) -> bool:
    """Move each entry to its lower or upper neighbour where that is better; was any moved."""
    moved = False
    for j in range(entries.size):
        best = _around(values, sums, entries, j, entries[j])
        for place in (below[j], above[j]):
            if (j > 0 and place < entries[j - 1]) or (
                j + 1 < entries.size and place > entries[j + 1]
            ):
                continue
            error = _around(values, sums, entries, j, place)
            if error < best - 1e-12 * abs(best):
                best, entries[j], moved = error, place, True
    return moved


@compiled
def total_error(values: NDArray[np.floating], sums: Floats, entries: Floats) -> float:
    """Sum of squared errors with every value at its nearest entry."""
    total, start = 0.0, 0
    for j in range(entries.size):
        end = values.size
        if j + 1 < entries.size:
            end = np.searchsorted(values, (entries[j] + entries[j + 1]) / 2)
        total += _error(sums, start, end, entries[j])
        start = end
    return total


@compiled
def _around(
    values: NDArray[np.floating], sums: Floats, entries: Floats, j: int, place: float
) -> float:
    """Error of the values between the entries next to j, with entry j put at `place`."""
    first, last = 0, values.size
    total, start = 0.0, 0
    if j > 0:
        first = np.searchsorted(values, entries[j - 1])
        start = np.searchsorted(values, (entries[j - 1] + place) / 2)
        total += _error(sums, first, start, entries[j - 1])
    end = values.size
    if j + 1 < entries.size:
        last = np.searchsorted(values, entries[j + 1])
        end = np.searchsorted(values, (place + entries[j + 1]) / 2)
        total += _error(sums, end, last, entries[j + 1])
    return total + _error(sums, start, end, place)


@compiled_inline
def _error(sums: Floats, a: int, b: int, entry: float) -> float:
    mass, moment, square = sums[b, 0] - sums[a, 0], sums[b, 1] - sums[a, 1], sums[b, 2] - sums[a, 2]
    return float(square - entry * (2 * moment - entry * mass))
