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
GUESSES: Final = 10
"""Paths after which the penalty is found by bisection of its logarithm, not by extrapolation."""
SMALLEST_PENALTY: Final = 1e-18
"""Smallest penalty, as a share of the cost of a single cell; below it are rounding errors."""
NEAR: Final = 4
"""Number of consecutive cell ends for which a new start is tried at once."""


@compiled_inline
def gain(weight: float, moment: float) -> float:
    """Return what a cell of this weight and first moment adds to the objective."""
    return -moment * moment / weight


@compiled
def cheapest_path(sums: Floats, penalty: float, parents: Integers, links: Integers) -> None:
    """Find the cheapest chain of cells over points 0..n if each cell costs `penalty` more.

    Fills, for every position, the start of the last cell and the number of cells up to it. Costs
    satisfy the quadrangle inequality, so a later start, once better, stays better: a queue has the
    starts that are best for some later position, in order.

    Shapes: sums (n+1, 3): prefix sums of w and w x, and space for the cost so far; parents, links
        (n+1,).
    Source: Galil and Park 1992.
    """
    n = sums.shape[0] - 1
    queue = np.empty(n + 1, np.int32)
    since = np.empty(n + 1, np.int32)  # first position for which each start in the queue is best
    head = tail = 0
    queue[0], since[0], sums[0, COST], links[0], parents[0] = 0, 1, 0.0, 0, 0
    for j in range(1, n + 1):
        while head < tail and since[head + 1] <= j:
            head += 1
        i = queue[head]
        added = gain(sums[j, WEIGHT] - sums[i, WEIGHT], sums[j, MOMENT] - sums[i, MOMENT])
        sums[j, COST] = sums[i, COST] + penalty + added
        parents[j] = i
        links[j] = links[i] + 1
        while True:
            last = queue[tail]
            low = max(since[tail], j + 1)
            if low > n:
                break
            # Most wins are this near; trying them all is cheaper than mispredicted branches.
            won, lost = _beats(sums, j, last, low), 0
            for ahead in range(1, NEAR):
                lost += not _beats(sums, j, last, min(low + ahead, n))
            if won:
                if tail > head:
                    tail -= 1
                    continue
                queue[tail], since[tail] = j, low
                break
            first = low + 1 + lost
            if lost == NEAR - 1 and low + lost < n:
                first = _first_win(sums, j, last, low + lost)
            if first <= n:
                tail += 1
                queue[tail], since[tail] = j, first
            break


@compiled_inline
def _beats(sums: Floats, new: int, old: int, end: int) -> bool:
    """Return whether a last cell from `new` is cheaper than one from `old`, both up to `end`.

    Compares cost - S^2 / W of the two, multiplied by both weights to avoid divisions.
    """
    fresh, stale = sums[end, WEIGHT] - sums[new, WEIGHT], sums[end, WEIGHT] - sums[old, WEIGHT]
    near, far = sums[end, MOMENT] - sums[new, MOMENT], sums[end, MOMENT] - sums[old, MOMENT]
    dearer = (sums[new, COST] - sums[old, COST]) * fresh * stale
    return bool(dearer < near * near * stale - far * far * fresh)


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
    """Return the best k cells, the penalty, and the number of paths searched.

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
    low = SMALLEST_PENALTY * high
    paths, chord = 0, False
    while paths < MAX_PATHS:
        cheapest_path(sums, penalty, parents, links)
        paths += 1
        cuts, cells = path_cuts(parents, links), links[n]
        if cells == k:
            return cuts, penalty, paths
        nearer = False
        if cells > k:
            low = max(low, penalty)
            if cells < many.size - 1:
                many, many_cost, nearer = cuts, cut_gain(weights, moments, cuts), True
        else:
            high = min(high, penalty)
            if cells > few.size - 1:
                few, few_cost, nearer = cuts, cut_gain(weights, moments, cuts), True
        if chord and not nearer:
            break
        # In the limit of many cells, their number is proportional to penalty^(-1/3).
        ratio = cells / k
        penalty *= min(max(ratio * ratio * ratio, 0.05), 20.0)
        if paths > GUESSES:
            penalty = np.sqrt(low) * np.sqrt(high)
        chord = many.size - few.size <= 2 + k // 32 or not low < penalty < high
        if chord:
            penalty = (few_cost - many_cost) / (many.size - few.size)
    return splice(weights, moments, few, many, k), penalty, paths


@compiled
def splice(weights: Floats, moments: Floats, few: Integers, many: Integers, k: int) -> Integers:
    """Return the best k cells that follow the cuts `many` first and the cuts `few` afterwards.

    Source: Aggarwal, Schieber and Tokuyama 1994, lemma 2.
    """
    surplus = k - (few.size - 1)
    best, at = np.inf, 0
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
            best, at = total, j
    return np.concatenate((many[: at + surplus + 1], few[at + 1 :]))


@compiled
def cut_gain(weights: Floats, moments: Floats, cuts: Integers) -> float:
    """Return the sum of the gains of the cells between cuts."""
    total = 0.0
    for j in range(cuts.size - 1):
        a, b = cuts[j], cuts[j + 1]
        total += gain(weights[b] - weights[a], moments[b] - moments[a])
    return total
