"""Sorted values to prefix sums, and the few of them that are worth trying as cuts first."""

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled, compiled_for_sums, compiled_inline
from palettery.kernels.scalar.direct import direct_cuts
from palettery.kernels.scalar.optimum import Floats, Integers, cheapest_cells, cut_gain
from palettery.kernels.scalar.refinement import refine

MAX_SPLIT_ROUNDS = 64
CANDIDATES_PER_CELL = 8
LEAST_CANDIDATES = 128
DIRECT_POINTS = 1024
"""Up to here the cost of every cell is tabulated where prefix sums are too coarse."""
UNEQUAL = 32
"""One value in so many may equal another before equal ones are merged."""
CANCELLED = 1e-6
"""Error, as a share of the second moment, below which prefix sums are too coarse."""


@compiled
def solve(
    values: NDArray[np.floating], mass: Floats, k: int, centroids: Floats, room: Floats
) -> int:
    """Optimal centroids of sorted weighted values; returns the number of paths tried.

    With fewer than k distinct values the last centroid is repeated. An empty `mass` means that
    every value weighs 1; masses must be positive.

    Shapes: values ascending (n,), mass (n,) or (0,), centroids (k,) filled ascending; room
    (3, n+1) is written to.
    """
    n, distinct = values.size, count_distinct(values)
    if worth_merging(n, distinct) or distinct <= k:
        values, mass = merged(values, mass, distinct)
        n = distinct
    if n <= k:
        for j in range(k):
            centroids[j] = values[min(j, n - 1)]
        return 0
    scale, centre = _unit(values)
    points, weights, moments = room[0, :n], room[1, : n + 1], room[2, : n + 1]
    for i in range(n):
        points[i] = (values[i] - centre) * scale
    cuts, paths = optimal_cuts(points, mass, weights, moments, k)
    for j in range(k):
        a, b = cuts[j], cuts[j + 1]
        centroids[j] = np.float64(values[a]) + mean_above(points[a:b], mass[a:b]) / scale
    return paths


@compiled_inline
def worth_merging(n: int, distinct: int) -> bool:
    """Whether so many of n values are equal to another that one of each, with its mass, is quicker.

    The optimum is the same either way: equal points obey the quadrangle inequality, too.
    """
    return n - distinct > n // UNEQUAL


@compiled
def count_distinct(values: NDArray[np.floating]) -> int:
    """Different values among sorted ones."""
    distinct = 1
    for i in range(1, values.size):
        distinct += values[i] != values[i - 1]
    return distinct


@compiled_for_sums
def mean_above(points: Floats, mass: Floats) -> float:
    """Weighted mean of points, counted from the first of them so that equal ones keep it exact.

    Shapes: points (n,), mass (n,) or (0,).
    """
    first, weight, moment = points[0], 0.0, 0.0
    if mass.size:
        for i in range(points.size):
            weight += mass[i]
            moment += mass[i] * (points[i] - first)
        return moment / weight
    for i in range(points.size):
        moment += points[i] - first
    return moment / points.size


@compiled
def optimal_cuts(
    points: Floats, mass: Floats, weights: Floats, moments: Floats, k: int
) -> tuple[Integers, int]:
    """Cut positions (k+1,) of n > k points, and the paths it took.

    Where the cells are tiny beside the range, differences of prefix sums would lose their digits;
    gaps that must hold a cut are then shortened first, which changes no cell.

    Shapes: points (n,), mass (n,) or (0,), weights and moments (n+1,) filled for these points.
    """
    squares = prefix_sums(points, mass, weights, moments)
    cuts, penalty, paths = first_cuts(points, weights, moments, k)
    if squares + cut_gain(weights, moments, cuts) > CANCELLED * squares:
        return cuts, paths + refine(weights, moments, cuts, penalty)
    if points.size <= DIRECT_POINTS:
        return direct_cuts(points, mass, k), paths
    nearer = shortened(points, mass, cut_error(points, mass, weights, cuts))
    prefix_sums(nearer, mass, weights, moments)
    cuts, penalty, paths = first_cuts(nearer, weights, moments, k)
    return cuts, paths + refine(weights, moments, cuts, penalty)


@compiled
def first_cuts(
    points: Floats, weights: Floats, moments: Floats, k: int
) -> tuple[Integers, float, int]:
    """The best of the candidate cuts, the penalty per cell there, and the paths it took."""
    candidates, penalty = candidate_cuts(points, weights, k)
    at, penalty, paths = cheapest_cells(weights[candidates], moments[candidates], k, penalty)
    return candidates[at], penalty, paths


@compiled
def cut_error(points: Floats, mass: Floats, weights: Floats, cuts: Integers) -> float:
    """Sum of squared errors of the cells, each about its own mean."""
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
def shortened(points: Floats, mass: Floats, error: float) -> Floats:
    """The points with every gap that costs more than `error` to span made just that wide.

    A cell over a gap g between masses v and w costs at least v w / (v + w) g^2. When that is more
    than a known solution costs, no optimal cell spans the gap, at its old width or its new one.
    """
    out = np.empty_like(points)
    out[0] = 0.0
    for i in range(1, points.size):
        v, w = (mass[i - 1], mass[i]) if mass.size else (1.0, 1.0)
        widest = np.sqrt(4.0 * error * (v + w) / (v * w))
        out[i] = out[i - 1] + min(points[i] - points[i - 1], widest)
    centred: Floats = out - out[points.size // 2]
    return centred


@compiled
def _unit(values: NDArray[np.floating]) -> tuple[float, float]:
    """A power of two that brings the values near 1, and a centre."""
    n = values.size
    most = max(abs(np.float64(values[0])), abs(np.float64(values[n - 1])))
    exponent = np.floor(np.log2(most)) if most > 0 else 0.0
    return 2.0**-exponent, np.float64(values[n // 2])


@compiled
def merged(
    values: NDArray[np.floating], mass: Floats, distinct: int
) -> tuple[NDArray[np.floating], Floats]:
    """Distinct values and the mass of each.

    Shapes: (n,), (n,) or (0,) -> (distinct,), (distinct,).
    """
    out, total = np.empty(distinct, values.dtype), np.zeros(distinct)
    out[0] = values[0]
    j = 0
    for i in range(values.size):
        if values[i] != out[j]:
            j += 1
            out[j] = values[i]
        total[j] += mass[i] if mass.size else 1.0
    return out, total


@compiled
def prefix_sums(points: Floats, mass: Floats, weights: Floats, moments: Floats) -> float:
    """Sums of w and w x over the points before each position; returns that of all w x^2.

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


@compiled
def cube_roots(numbers: Floats) -> Floats:
    """Cube roots to about 1e-4, ten times faster than `np.cbrt`: a guess from the bits, polished.

    Shapes: positive or zero (n,) -> (n,).
    """
    # A third of the bits, as an integer, is a third of the logarithm; the constant is 2/3 of the
    # exponent's bias, less what centres the error.
    roots: Floats = (numbers.view(np.int64) // 3 + 0x2A9F7893782DA1CE).view(np.float64)
    for i in range(numbers.size):
        root, number = roots[i], numbers[i]
        root = root * (2.0 / 3.0) + number / (3.0 * root * root)
        root = root * (2.0 / 3.0) + number / (3.0 * root * root)
        roots[i] = root if number > 1e-290 else 0.0
    return roots


@compiled_inline
def cubed_spread(points: Floats, weights: Floats, a: int, b: int) -> float:
    """Cube of the integral of density^(1/3) over points [a, b): of the cells they deserve.

    A single point stands for the gap after it, with its neighbour's mass as well.

    Source: Panter and Dite 1951.
    """
    last = points.size - 1
    length = points[min(b, last)] - points[a]
    weight = weights[min(b + (b - a == 1), last + 1)] - weights[a]
    return float(weight * length * length)


@compiled
def candidate_cuts(points: Floats, weights: Floats, k: int) -> tuple[Integers, float]:
    """Cuts worth trying first, and the penalty per cell that should give k cells.

    Candidates lie evenly in the integral of density^(1/3). A block with more than one candidate's
    share is split down to single gaps, and a gap takes at most one share however wide it is,
    because one cut serves it: so neither outliers nor far modes starve the bulk.

    Shapes: points (n,), prefix sums (n+1,) -> positions from 0 to n.
    """
    n = points.size
    wanted = max(CANDIDATES_PER_CELL * k, LEAST_CANDIDATES)
    every = n <= 2 * wanted
    if every:
        wanted = n
    blocks = min(n, 2 * wanted)
    measures = np.empty(blocks)
    for block in range(blocks):
        a, b = block * n // blocks, (block + 1) * n // blocks
        measures[block] = cubed_spread(points, weights, a, b)
    measures = cube_roots(measures)
    total = measures.sum()
    share = total / wanted
    found = np.empty(0 if every else 8 * wanted, np.int64)
    for _ in range(MAX_SPLIT_ROUNDS):
        before = total
        _, total = _walk(points, weights, measures, share, found[:0])
        share = total / wanted
        if total > 0.9 * before:
            break
    penalty = total * total * total / (6.0 * k * k * k)
    if every:
        return np.arange(n + 1), penalty
    count, _ = _walk(points, weights, measures, share, found)
    if count < 2 * k:
        return np.arange(wanted + 1) * n // wanted, penalty
    positions = np.empty(count + 2, np.int64)
    positions[0], positions[count + 1] = 0, n
    positions[1 : count + 1] = found[:count]
    return positions, penalty


@compiled
def _walk(
    points: Floats, weights: Floats, measures: Floats, share: float, found: Integers
) -> tuple[int, float]:
    """Number of cuts noted, one per share while there is room, and the total measure."""
    n, blocks = points.size, measures.size
    starts, ends = np.empty(64, np.int64), np.empty(64, np.int64)
    total = carried = 0.0
    count = 0
    for block in range(blocks):
        starts[0], ends[0] = block * n // blocks, (block + 1) * n // blocks
        depth, measure = 1, measures[block]
        known = measure <= share
        while depth:
            depth -= 1
            a, b = starts[depth], ends[depth]
            if not known:
                measure = np.cbrt(cubed_spread(points, weights, a, b))
            if measure > share:
                if b - a > 1:
                    middle = (a + b) // 2
                    starts[depth], ends[depth] = middle, b
                    starts[depth + 1], ends[depth + 1] = a, middle
                    depth += 2
                    continue
                measure = share
            total += measure
            carried += measure
            if carried >= share and b < n and count < found.size:
                found[count] = b
                count += 1
                carried = max(0.0, carried - share)
    return count, total
