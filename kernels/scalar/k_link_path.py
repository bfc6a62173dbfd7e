"""Cheapest path of k links: the optimal cuts of sorted weighted points into k cells.

A cell over points [a, b) costs sum w x^2 - S^2 / W, where W and S are its sums of w and w x. The
first term adds up to a constant over all cells, so optimal cuts minimise the sum of `gain` =
-S^2 / W, which takes O(1) per cell with prefix sums. See docs/kernels.md.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled, compiled_inline

Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]
Flags = NDArray[np.bool_]

WEIGHT: Final = 0
MOMENT: Final = 1
COST: Final = 2
"""Columns of the sums of the path search, interleaved so that they share cache lines."""
MAX_PATHS = 60
MAX_EXTRAPOLATIONS: Final = 10
"""Path searches after which the penalty is bisected on a log scale instead of extrapolated."""
MIN_RELATIVE_PENALTY: Final = 1e-18
"""Smallest penalty, relative to the cost of a single cell; below it are rounding errors."""
NEARBY_ENDS: Final = 4
"""Number of consecutive cell ends at which a new start is compared without a search."""


@compiled_inline
def gain(weight: float, moment: float) -> float:
    """Return the term -S^2 / W that a cell adds to the objective, W its weight and S its moment."""
    return -moment * moment / weight


@compiled
def cheapest_path(sums: Floats, penalty: float, parents: Integers, links: Integers) -> None:
    """Find the cheapest path of cells from position 0 to n if each cell costs `penalty` extra.

    Fills, for every position, the start of the last cell and the number of cells up to it. Costs
    satisfy the quadrangle inequality, so a later start, once better, stays better. A queue has the
    starts that are best for some later position, in order.

    Shapes: sums (n+1, 3): prefix sums of w and w x, and space for the cost so far; parents, links
        (n+1,).
    Source: Galil and Park 1992.
    """
    n = sums.shape[0] - 1
    queue = np.empty(n + 1, np.int32)
    best_from = np.empty(n + 1, np.int32)  # first end for which each start in the queue is best
    head = tail = 0
    queue[0], best_from[0], sums[0, COST], links[0], parents[0] = 0, 1, 0.0, 0, 0
    for j in range(1, n + 1):
        while head < tail and best_from[head + 1] <= j:
            head += 1
        start = queue[head]
        cell_gain = gain(
            sums[j, WEIGHT] - sums[start, WEIGHT], sums[j, MOMENT] - sums[start, MOMENT]
        )
        sums[j, COST] = sums[start, COST] + penalty + cell_gain
        parents[j] = start
        links[j] = links[start] + 1
        while True:
            last = queue[tail]
            low = max(best_from[tail], j + 1)
            if low > n:
                break
            # Most wins are this close; comparing all is cheaper than mispredicted branches.
            wins, losses = _beats(sums, j, last, low), 0
            for ahead in range(1, NEARBY_ENDS):
                losses += not _beats(sums, j, last, min(low + ahead, n))
            if wins:
                if tail > head:
                    tail -= 1
                    continue
                queue[tail], best_from[tail] = j, low
                break
            first_win = low + 1 + losses
            if losses == NEARBY_ENDS - 1 and low + losses < n:
                first_win = _first_win(sums, j, last, low + losses)
            if first_win <= n:
                tail += 1
                queue[tail], best_from[tail] = j, first_win
            break


@compiled_inline
def _beats(sums: Floats, new: int, old: int, end: int) -> bool:
    """Return whether a last cell from `new` is cheaper than one from `old`, both up to `end`.

    Compares cost - S^2 / W of the two, multiplied by both weights to avoid divisions.
    """
    new_weight, old_weight = (
        sums[end, WEIGHT] - sums[new, WEIGHT],
        sums[end, WEIGHT] - sums[old, WEIGHT],
    )
    new_moment, old_moment = (
        sums[end, MOMENT] - sums[new, MOMENT],
        sums[end, MOMENT] - sums[old, MOMENT],
    )
    extra_cost = (sums[new, COST] - sums[old, COST]) * new_weight * old_weight
    return bool(
        extra_cost < new_moment * new_moment * old_weight - old_moment * old_moment * new_weight
    )


@compiled_inline
def _first_win(sums: Floats, new: int, old: int, low: int) -> int:
    """Return the first end after `low` for which `new` beats `old`; n + 1 if there is none."""
    n = sums.shape[0] - 1
    step = 1
    while low + step <= n and not _beats(sums, new, old, low + step):
        low += step
        step *= 2
    high = min(low + step, n + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if _beats(sums, new, old, middle):
            high = middle
        else:
            low = middle
    return int(high)


@compiled
def path_cuts(parents: Integers, links: Integers) -> Integers:
    """Return the cut positions of the path to the last point, both ends included."""
    position = parents.size - 1
    cuts = np.empty(links[position] + 1, np.int64)
    for j in range(links[position], -1, -1):
        cuts[j] = position
        position = parents[position]
    return cuts


@compiled
def cheapest_cells(
    weights: Floats, moments: Floats, k: int, penalty: float
) -> tuple[Integers, float, int]:
    """Return the cuts of the best k cells, the penalty per cell, and the number of path searches.

    This searches for the penalty at which the cheapest path has k cells. The optimal cost is convex
    in k, so the number of cells falls as the penalty grows. If it jumps over k, the paths with too
    few and too many cells have the same cost at the penalty in between, and so has a splice of the
    two with k cells.

    Shapes: prefix sums (n+1,) with n >= k -> (k+1,).
    """
    n = weights.size - 1
    sums = np.empty((n + 1, 3))
    sums[:, WEIGHT], sums[:, MOMENT] = weights, moments
    parents, links = np.empty(n + 1, np.int32), np.empty(n + 1, np.int32)
    few: Integers = np.array([0, n])
    many: Integers = np.arange(n + 1)
    few_cost, many_cost = cut_gain(weights, moments, few), cut_gain(weights, moments, many)
    high = few_cost - many_cost  # one cell is best from here on
    low = MIN_RELATIVE_PENALTY * high
    paths, use_secant = 0, False
    while paths < MAX_PATHS:
        cheapest_path(sums, penalty, parents, links)
        paths += 1
        cuts, cells = path_cuts(parents, links), links[n]
        if cells == k:
            return cuts, penalty, paths
        improved = False
        if cells > k:
            low = max(low, penalty)
            if cells < many.size - 1:
                many, many_cost, improved = cuts, cut_gain(weights, moments, cuts), True
        else:
            high = min(high, penalty)
            if cells > few.size - 1:
                few, few_cost, improved = cuts, cut_gain(weights, moments, cuts), True
        if use_secant and not improved:
            break
        # In the limit of many cells, their number is proportional to penalty^(-1/3).
        ratio = cells / k
        penalty *= min(max(ratio * ratio * ratio, 0.05), 20.0)
        if paths > MAX_EXTRAPOLATIONS:
            penalty = np.sqrt(low) * np.sqrt(high)
        use_secant = many.size - few.size <= 2 + k // 32 or not low < penalty < high
        if use_secant:
            penalty = (few_cost - many_cost) / (many.size - few.size)
    return splice(weights, moments, few, many, k), penalty, paths


@compiled
def splice(weights: Floats, moments: Floats, few: Integers, many: Integers, k: int) -> Integers:
    """Return the best k cells that follow the cuts `many` first and the cuts `few` afterwards.

    Source: Aggarwal, Schieber and Tokuyama 1994, lemma 2.
    """
    surplus = k - (few.size - 1)
    best, best_join = np.inf, 0
    for j in range(few.size - 1):
        if j + surplus >= many.size - 1 or many[j + surplus] >= few[j + 1]:
            continue
        total = 0.0
        for i in range(j + surplus):
            a, b = many[i], many[i + 1]
            total += gain(weights[b] - weights[a], moments[b] - moments[a])
        a, b = many[j + surplus], few[j + 1]
        total += gain(weights[b] - weights[a], moments[b] - moments[a])
        for i in range(j + 1, few.size - 1):
            a, b = few[i], few[i + 1]
            total += gain(weights[b] - weights[a], moments[b] - moments[a])
        if total < best:
            best, best_join = total, j
    return np.concatenate((many[: best_join + surplus + 1], few[best_join + 1 :]))


@compiled
def cut_gain(weights: Floats, moments: Floats, cuts: Integers) -> float:
    """Return the sum of the gains of the cells between cuts."""
    total = 0.0
    for j in range(cuts.size - 1):
        a, b = cuts[j], cuts[j + 1]
        total += gain(weights[b] - weights[a], moments[b] - moments[a])
    return total
