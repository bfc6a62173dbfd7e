"""Optimal K-means of sorted weighted values in one dimension.

The algorithm: prefix sums, the optimal cuts among a few candidate positions, and their refinement
over all positions. A cell is a run of consecutive points with one centroid, between two cuts.
The mass of a point is the weight of its squared error.
"""

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled, compiled_for_sums
from palettery.kernels.scalar.candidates import candidate_cuts
from palettery.kernels.scalar.cut_refinement import refine_cuts
from palettery.kernels.scalar.dynamic_programming import dynamic_programming_cuts
from palettery.kernels.scalar.k_link_path import Floats, Integers, cheapest_cells, cut_gain
from palettery.kernels.scalar.merging import count_distinct, is_worth_merging, merge_equal

MAX_TABULATED_POINTS = 1024
"""Most points for which all cell costs are tabulated if prefix sums are too inaccurate."""
MIN_RELATIVE_ERROR = 1e-6
"""Error relative to the sum of squares, below which prefix sums are too inaccurate."""


@compiled
def find_centroids(
    values: NDArray[np.floating], mass: Floats, k: int, centroids: Floats, scratch: Floats
) -> int:
    """Fill the optimal centroids of sorted weighted values; return the number of path searches.

    With fewer than k distinct values the last centroid repeats. An empty `mass` means that every
    value has mass 1; masses must be positive.

    Shapes: values ascending (n,), mass (n,) or (0,), scratch (3, n+1) -> centroids (k,) ascending.
    """
    n, distinct = values.size, count_distinct(values)
    if is_worth_merging(n, distinct) or distinct <= k:
        values, mass = merge_equal(values, mass, distinct)
        n = distinct
    if n <= k:
        for j in range(k):
            centroids[j] = values[min(j, n - 1)]
        return 0
    scale, centre = _normalization(values)
    points, weights, moments = scratch[0, :n], scratch[1, : n + 1], scratch[2, : n + 1]
    for i in range(n):
        points[i] = (values[i] - centre) * scale
    cuts, paths = optimal_cuts(points, mass, weights, moments, k)
    for j in range(k):
        first, last = cuts[j], cuts[j + 1]
        centroids[j] = (
            np.float64(values[first]) + mean_offset(points[first:last], mass[first:last]) / scale
        )
    return paths


@compiled_for_sums
def mean_offset(points: Floats, mass: Floats) -> float:
    """Return the mean of the points minus the first point; exactly 0 if all are equal.

    Shapes: points (n,), mass (n,) or (0,).
    """
    origin, weight, moment = points[0], 0.0, 0.0
    if mass.size:
        for i in range(points.size):
            weight += mass[i]
            moment += mass[i] * (points[i] - origin)
        return moment / weight
    for i in range(points.size):
        moment += points[i] - origin
    return moment / points.size


@compiled
def optimal_cuts(
    points: Floats, mass: Floats, weights: Floats, moments: Floats, k: int
) -> tuple[Integers, int]:
    """Return the cut positions (k+1,) of n > k points, and the number of path searches.

    If cells are tiny compared to the range, differences of prefix sums cancel. Then gaps that no
    optimal cell spans are shortened first, which does not change the optimal cuts.

    Shapes: points (n,), mass (n,) or (0,) -> weights and moments (n+1,) filled.
    """
    sum_of_squares = prefix_sums(points, mass, weights, moments)
    cuts, penalty, paths = best_candidate_cuts(points, weights, moments, k)
    if sum_of_squares + cut_gain(weights, moments, cuts) > MIN_RELATIVE_ERROR * sum_of_squares:
        return cuts, paths + refine_cuts(weights, moments, cuts, penalty)
    if points.size <= MAX_TABULATED_POINTS:
        return dynamic_programming_cuts(points, mass, k), paths
    shortened = shorten_gaps(points, mass, cut_error(points, mass, weights, cuts))
    prefix_sums(shortened, mass, weights, moments)
    cuts, penalty, paths = best_candidate_cuts(shortened, weights, moments, k)
    return cuts, paths + refine_cuts(weights, moments, cuts, penalty)


@compiled
def best_candidate_cuts(
    points: Floats, weights: Floats, moments: Floats, k: int
) -> tuple[Integers, float, int]:
    """Return the best candidate cuts, the penalty per cell, and the number of path searches."""
    candidates, penalty = candidate_cuts(points, weights, k)
    chosen, penalty, paths = cheapest_cells(weights[candidates], moments[candidates], k, penalty)
    return candidates[chosen], penalty, paths


@compiled
def cut_error(points: Floats, mass: Floats, weights: Floats, cuts: Integers) -> float:
    """Return the sum of squared errors of the cells, each about its mean."""
    total = 0.0
    for j in range(cuts.size - 1):
        a, b = cuts[j], cuts[j + 1]
        first, moment, square = points[a], 0.0, 0.0
        for i in range(a, b):
            w = mass[i] if mass.size else 1.0
            moment += w * (points[i] - first)
            square += w * (points[i] - first) * (points[i] - first)
        total += max(0.0, square - moment * moment / (weights[b] - weights[a]))
    return total


@compiled
def shorten_gaps(points: Floats, mass: Floats, error: float) -> Floats:
    """Return the points with gaps shortened to the width at which spanning them exceeds `error`.

    A cell over a gap g between masses v and w costs at least v w / (v + w) g^2. If that exceeds the
    cost of a known solution, no optimal cell spans the gap, neither at its old nor its new width.
    """
    shortened = np.empty_like(points)
    shortened[0] = 0.0
    for i in range(1, points.size):
        v, w = (mass[i - 1], mass[i]) if mass.size else (1.0, 1.0)
        widest = np.sqrt(4.0 * error * (v + w) / (v * w))
        shortened[i] = shortened[i - 1] + min(points[i] - points[i - 1], widest)
    centred: Floats = shortened - shortened[points.size // 2]
    return centred


@compiled
def _normalization(values: NDArray[np.floating]) -> tuple[float, float]:
    """Return a power of two that scales the values to about 1, and a value to subtract first."""
    n = values.size
    largest = max(abs(np.float64(values[0])), abs(np.float64(values[n - 1])))
    exponent = np.floor(np.log2(largest)) if largest > 0 else 0.0
    return 2.0**-exponent, np.float64(values[n // 2])


@compiled
def prefix_sums(points: Floats, mass: Floats, weights: Floats, moments: Floats) -> float:
    """Fill the sums of w and w x over the points before each position; return that of all w x^2.

    Shapes: points (n,), mass (n,) or (0,), weights and moments (n+1,) filled.
    """
    weight = moment = square = 0.0
    weights[0] = moments[0] = 0.0
    for i in range(points.size):
        w = mass[i] if mass.size else 1.0
        weight += w
        moment += w * points[i]
        square += w * points[i] * points[i]
        weights[i + 1] = weight
        moments[i + 1] = moment
    return square
