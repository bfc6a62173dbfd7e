"""Candidate cuts of sorted points: few positions, spread evenly in the companding measure.

The companding measure is the integral of density^(1/3), which optimal cells share about equally.

Source: Panter and Dite 1951; Gersho 1979.
"""

import numpy as np

from palettery.kernels.jit import compiled, compiled_inline
from palettery.kernels.scalar.k_link_path import Floats, Integers

MAX_SPLIT_ROUNDS = 64
CANDIDATES_PER_CELL = 8
MIN_CANDIDATES = 128


@compiled
def cube_roots(numbers: Floats) -> Floats:
    """Return cube roots with a relative error of about 1e-4, ten times faster than `np.cbrt`.

    Shapes: positive or zero (n,) -> (n,).
    """
    # A third of the bits, as an integer, is about a third of the logarithm. The constant is 2/3 of
    # the exponent's bias, minus an offset that centres the error. Two Newton steps follow.
    roots: Floats = (numbers.view(np.int64) // 3 + 0x2A9F7893782DA1CE).view(np.float64)
    for i in range(numbers.size):
        root, number = roots[i], numbers[i]
        root = root * (2.0 / 3.0) + number / (3.0 * root * root)
        root = root * (2.0 / 3.0) + number / (3.0 * root * root)
        roots[i] = root if number > 1e-290 else 0.0
    return roots


@compiled_inline
def cubed_measure(points: Floats, weights: Floats, a: int, b: int) -> float:
    """Return the cube of the integral of density^(1/3) over points [a, b).

    A single point includes the gap after it and the mass of the next point.

    Source: Panter and Dite 1951.
    """
    last = points.size - 1
    length = points[min(b, last)] - points[a]
    weight = weights[min(b + (b - a == 1), last + 1)] - weights[a]
    return float(weight * length * length)


@compiled
def candidate_cuts(points: Floats, weights: Floats, k: int) -> tuple[Integers, float]:
    """Return candidate cuts, and an estimate of the penalty per cell that gives k cells.

    Candidates are spread evenly in the companding measure. A block with more than one candidate's
    share of it is split, down to single gaps. A gap counts at most one share, however wide,
    because it needs only one cut. So outliers and distant modes leave candidates for the bulk.

    Shapes: points (n,), prefix sums (n+1,) -> positions from 0 to n.
    """
    n = points.size
    wanted = max(CANDIDATES_PER_CELL * k, MIN_CANDIDATES)
    use_all = n <= 2 * wanted
    if use_all:
        wanted = n
    blocks = min(n, 2 * wanted)
    measures = np.empty(blocks)
    for block in range(blocks):
        a, b = block * n // blocks, (block + 1) * n // blocks
        measures[block] = cubed_measure(points, weights, a, b)
    measures = cube_roots(measures)
    total = measures.sum()
    share = total / wanted
    inner_positions = np.empty(0 if use_all else 8 * wanted, np.int64)
    for _ in range(MAX_SPLIT_ROUNDS):
        previous_total = total
        _, total = _place_candidates(points, weights, measures, share, inner_positions[:0])
        share = total / wanted
        if total > 0.9 * previous_total:
            break
    penalty = total * total * total / (6.0 * k * k * k)
    if use_all:
        return np.arange(n + 1), penalty
    count, _ = _place_candidates(points, weights, measures, share, inner_positions)
    if count < 2 * k:
        return np.arange(wanted + 1) * n // wanted, penalty
    positions = np.empty(count + 2, np.int64)
    positions[0], positions[count + 1] = 0, n
    positions[1 : count + 1] = inner_positions[:count]
    return positions, penalty


@compiled
def _place_candidates(
    points: Floats, weights: Floats, measures: Floats, share: float, candidates: Integers
) -> tuple[int, float]:
    """Fill one candidate per share of the measure, as long as they fit.

    Returns the number of candidates and the total measure, in which a gap counts at most a share.
    """
    n, blocks = points.size, measures.size
    starts, ends = np.empty(64, np.int64), np.empty(64, np.int64)
    total = accumulated = 0.0
    count = 0
    for block in range(blocks):
        starts[0], ends[0] = block * n // blocks, (block + 1) * n // blocks
        depth, measure = 1, measures[block]
        is_whole = measure <= share
        while depth:
            depth -= 1
            a, b = starts[depth], ends[depth]
            if not is_whole:
                measure = np.cbrt(cubed_measure(points, weights, a, b))
            if measure > share:
                if b - a > 1:
                    middle = (a + b) // 2
                    starts[depth], ends[depth] = middle, b
                    starts[depth + 1], ends[depth + 1] = a, middle
                    depth += 2
                    continue
                measure = share
            total += measure
            accumulated += measure
            if accumulated >= share and b < n and count < candidates.size:
                candidates[count] = b
                count += 1
                accumulated = max(0.0, accumulated - share)
    return count, total
