"""Optimal cuts of few points by dynamic programming over the costs of all cells.

Costs are summed point by point. That is slower than prefix sums, but without their cancellation:
for masses so uneven, or values so far apart, that errors vanish beside the prefix sums.
"""

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@compiled
def dynamic_programming_cuts(points: Floats, mass: Floats, k: int) -> Integers:
    """Return optimal cut positions, by dynamic programming over all positions.

    Shapes: points ascending (n,) with n > k, mass (n,) or (0,) -> (k+1,).
    Source: divide and conquer over monotone choices, Gronlund et al. 2017.
    """
    costs, _ = cell_costs(points, mass)
    return cheapest_cuts(costs, k)


@compiled
def cheapest_cuts(costs: Floats, k: int) -> Integers:
    """Return the cuts into the k cells of least total cost.

    Shapes: costs (n, n+1), where costs[a, b] is that of the cell [a, b) -> (k+1,).
    """
    n = costs.shape[0]
    choices = np.zeros((k + 1, n + 1), np.int64)
    best = np.full(n + 1, np.inf)
    best[0] = 0.0
    for j in range(1, k + 1):
        best = _add_cell(costs, best, choices[j])
    cuts = np.empty(k + 1, np.int64)
    cuts[k] = n
    for j in range(k, 0, -1):
        cuts[j - 1] = choices[j, cuts[j]]
    return cuts


@compiled
def cell_costs(points: Floats, mass: Floats) -> tuple[Floats, Floats]:
    """Return the squared error and the mean of every cell [a, b), adding one point at a time.

    Shapes: points (n,), mass (n,) or (0,) -> both (n, n+1).
    Source: Welford 1962; Chan, Golub and LeVeque 1979, for costs that lose no digits.
    """
    n = points.size
    costs, means = np.zeros((n, n + 1)), np.zeros((n, n + 1))
    for a in range(n):
        weight = mean = cost = 0.0
        for i in range(a, n):
            w = mass[i] if mass.size else 1.0
            difference, share = points[i] - mean, w / (weight + w)
            cost += weight * share * difference * difference
            weight += w
            mean += difference * share
            costs[a, i + 1], means[a, i + 1] = cost, mean
    return costs, means


@compiled
def _add_cell(costs: Floats, previous_costs: Floats, starts: Integers) -> Floats:
    """Return the least cost up to every position with one more cell; fill that cell's start."""
    n = previous_costs.size - 1
    total_costs = np.full(n + 1, np.inf)
    stride = 1
    while stride <= n:
        stride *= 2
    while stride:
        for b in range(stride - 1, n + 1, 2 * stride):
            low = starts[b - stride] if b >= stride else 0
            high = starts[b + stride] if b + stride <= n else n
            starts[b] = low
            for a in range(low, min(high, b - 1) + 1):
                total = previous_costs[a] + costs[a, b]
                if total < total_costs[b]:
                    total_costs[b], starts[b] = total, a
        stride //= 2
    return total_costs
