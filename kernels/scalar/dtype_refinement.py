"""Refinement of palettes in a two-byte dtype: entries move to neighbouring values of the dtype.

Optimal centroids, once rounded to the dtype, are not the best palette in that dtype, especially at
8 bits. So each entry tries the next lower and the next higher value of the dtype, and the values
around it are assigned to their nearest entry again.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.float16 import code_values
from palettery.kernels.jit import compiled, compiled_inline
from palettery.kernels.scalar.dynamic_programming import cell_costs, cheapest_cuts
from palettery.kernels.scalar.merging import count_distinct, merge_equal

Floats = NDArray[np.float64]

MAX_SWEEPS = 12
RELATIVE_NOISE = 1e-15
"""Rounding error of differences of prefix sums, as a share of the sum of squares."""
MAX_TABULATED_POINTS = 512
"""Most distinct values for which cells are also optimised by their error about rounded means.

With few values and a coarse dtype, many partitions have equal costs before means are rounded.
"""


def refine_entries(
    values: NDArray[np.floating], mass: Floats, centroids: Floats, dtype: np.dtype[Any]
) -> Floats:
    """Return palette entries in the dtype, found by local search from rounded centroids.

    From optimal centroids the search ends in a local optimum: no step of one entry lowers the
    error. Entries move at most `MAX_SWEEPS` steps, so from centroids far from the optimum, such as
    those of rounded values in fast mode, the search may end earlier.

    Shapes: values ascending (n,), mass (n,) or (0,), centroids (K,) ascending -> (K,).
    """
    entries, distinct = centroids.astype(dtype).astype(np.float64), count_distinct(values)
    if distinct <= len(centroids):
        return entries
    sums, representable = _prefix_sums(values, mass), finite_values(dtype)
    best = _sweep_to_convergence(values, sums, entries, representable)
    if distinct <= MAX_TABULATED_POINTS:
        points, weights = merge_equal(values, mass, distinct)
        rounded = _rounded_optimum(points.astype(np.float64), weights, len(centroids), dtype)
        alternative = _sweep_to_convergence(values, sums, rounded.astype(np.float64), representable)
        if total_error(points, weights, alternative) < total_error(points, weights, best):
            return alternative
    return best


def _rounded_optimum(points: Floats, mass: Floats, k: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the entries of optimal cells if each entry is the mean of its cell in the dtype."""
    costs, means = cell_costs(points, mass)
    entries = means.astype(dtype)
    weights = np.concatenate(([0.0], np.cumsum(mass)))
    costs += np.abs(weights[None, :] - weights[:-1, None]) * (means - entries) ** 2
    cuts = cheapest_cuts(costs, k)
    return entries[cuts[:-1], cuts[1:]]


@cache
def finite_values(dtype: np.dtype[Any]) -> Floats:
    """Return all finite values of a two-byte dtype, ascending; zero once."""
    values = code_values(dtype)
    return np.unique(values[np.isfinite(values)]).astype(np.float64)


@compiled
def _prefix_sums(values: NDArray[np.floating], mass: Floats) -> Floats:
    """Return the sums of w, w x and w x^2 before each position, (n+1, 3)."""
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
def _sweep_to_convergence(
    values: NDArray[np.floating], sums: Floats, entries: Floats, representable: Floats
) -> Floats:
    """Sweep over the entries until none moves. Shapes: entries (K,) from representable (m,)."""
    positions = np.searchsorted(representable, entries)
    for _ in range(MAX_SWEEPS):
        if not _sweep(values, sums, entries, positions, representable):
            break
    return entries


@compiled
def _sweep(
    values: NDArray[np.floating],
    sums: Floats,
    entries: Floats,
    positions: NDArray[np.int64],
    representable: Floats,
) -> bool:
    """Move each entry to the next lower or higher value if better; return whether any moved.

    Both steps start from the value that the entry had before its turn.
    """
    moved, noise = False, RELATIVE_NOISE * sums[-1, 2]
    for j in range(entries.size):
        best, start = _local_error(values, sums, entries, j, entries[j]), positions[j]
        for step in (-1, 1):
            at = min(max(start + step, 0), representable.size - 1)
            entry = representable[at]
            if (j > 0 and entry < entries[j - 1]) or (
                j + 1 < entries.size and entry > entries[j + 1]
            ):
                continue
            error = _local_error(values, sums, entries, j, entry)
            if error < best - max(1e-12 * abs(best), noise):
                best, entries[j], positions[j], moved = error, entry, at, True
    return moved


@compiled
def total_error(points: NDArray[np.floating], mass: Floats, entries: Floats) -> float:
    """Return the squared error of points at their nearest entries. Shapes: (n,), (n,), (K,)."""
    total, j = 0.0, 0
    for i in range(points.size):
        while j + 1 < entries.size and abs(points[i] - entries[j + 1]) <= abs(
            points[i] - entries[j]
        ):
            j += 1
        total += mass[i] * (points[i] - entries[j]) ** 2
    return total


@compiled
def _local_error(
    values: NDArray[np.floating], sums: Floats, entries: Floats, j: int, entry: float
) -> float:
    """Return the error of the values between entries j - 1 and j + 1 if entry j is `entry`."""
    first, last = 0, values.size
    total, start = 0.0, 0
    if j > 0:
        first = np.searchsorted(values, entries[j - 1])
        start = np.searchsorted(values, (entries[j - 1] + entry) / 2)
        total += _cell_error(sums, first, start, entries[j - 1])
    end = values.size
    if j + 1 < entries.size:
        last = np.searchsorted(values, entries[j + 1])
        end = np.searchsorted(values, (entry + entries[j + 1]) / 2)
        total += _cell_error(sums, end, last, entries[j + 1])
    return total + _cell_error(sums, start, end, entry)


@compiled_inline
def _cell_error(sums: Floats, a: int, b: int, entry: float) -> float:
    mass, moment, square = sums[b, 0] - sums[a, 0], sums[b, 1] - sums[a, 1], sums[b, 2] - sums[a, 2]
    return float(square - entry * (2 * moment - entry * mass))
