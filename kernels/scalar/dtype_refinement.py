"""Palettes in a two-byte dtype: move entries along what the dtype can hold.

Rounding optimal centroids to the dtype leaves a palette that is no longer the best of those the
dtype can hold, most of all at 8 bits. Trying each entry one step down and one up, with the values
around it going to whichever entry is nearest, mends that.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.float16 import values_of_codes
from palettery.kernels.jit import compiled, compiled_inline
from palettery.kernels.scalar.direct import cell_costs, cheapest_cuts
from palettery.kernels.scalar.points import count_distinct, merged

Floats = NDArray[np.float64]

MAX_SWEEPS = 12
ROUNDING = 1e-15
"""Share of all squares that differences of their sums may be off by."""
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
    entries, distinct = centroids.astype(dtype).astype(np.float64), count_distinct(values)
    if distinct <= len(centroids):
        return entries
    sums, held = _sums(values, mass), held_values(dtype)
    best = _descended(values, sums, entries, held)
    if distinct <= FEW_POINTS:
        points, weights = merged(values, mass, distinct)
        start = _rounded_optimum(points.astype(np.float64), weights, len(centroids), dtype)
        other = _descended(values, sums, start.astype(np.float64), held)
        if total_error(points, weights, other) < total_error(points, weights, best):
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


@cache
def held_values(dtype: np.dtype[Any]) -> Floats:
    """All finite numbers of a two-byte dtype, ascending; zero once."""
    values = values_of_codes(dtype)
    return np.unique(values[np.isfinite(values)]).astype(np.float64)


@compiled
def _sums(values: NDArray[np.floating], mass: Floats) -> Floats:
    """Sums of w, w x and w x^2 before each position, (n+1, 3)."""
    sums = np.empty((values.size + 1, 3))
    weight = moment = square = 0.0
    sums[0] = 0.0
    for i in range(values.size):
        w, x = mass[i] if mass.size else 1.0, float(values[i])
        weight += w
        moment += w * x
        square += w * x * x
        sums[i + 1, 0], sums[i + 1, 1], sums[i + 1, 2] = weight, moment, square
    return sums


@compiled
def _descended(values: NDArray[np.floating], sums: Floats, entries: Floats, held: Floats) -> Floats:
    """Sweep over the entries until none moves. Shapes: entries (K,) among those held (m,)."""
    places = np.searchsorted(held, entries)
    for _ in range(MAX_SWEEPS):
        if not _sweep(values, sums, entries, places, held):
            break
    return entries


@compiled
def _sweep(
    values: NDArray[np.floating],
    sums: Floats,
    entries: Floats,
    places: NDArray[np.int64],
    held: Floats,
) -> bool:
    """Move each entry to its lower or upper neighbour where that is better; was any moved.

    Steps are those from where the entry was when its turn came.
    """
    moved, noise = False, ROUNDING * sums[-1, 2]
    for j in range(entries.size):
        best, start = _around(values, sums, entries, j, entries[j]), places[j]
        for step in (-1, 1):
            at = min(max(start + step, 0), held.size - 1)
            place = held[at]
            if (j > 0 and place < entries[j - 1]) or (
                j + 1 < entries.size and place > entries[j + 1]
            ):
                continue
            error = _around(values, sums, entries, j, place)
            if error < best - max(1e-12 * abs(best), noise):
                best, entries[j], places[j], moved = error, place, at, True
    return moved


@compiled
def total_error(points: NDArray[np.floating], mass: Floats, entries: Floats) -> float:
    """Sum of squared errors with every point at its nearest entry. Shapes: (n,), (n,), (K,)."""
    total, j = 0.0, 0
    for i in range(points.size):
        while j + 1 < entries.size and abs(points[i] - entries[j + 1]) <= abs(
            points[i] - entries[j]
        ):
            j += 1
        total += mass[i] * (points[i] - entries[j]) ** 2
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
