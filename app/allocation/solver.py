"""Exact choice of one option for each item: least cost within a limit on the total weight.

This is the multiple-choice knapsack problem. Options that another one of the same item beats in
both cost and weight are dropped first. Then the best prices are those of the linear relaxation: at
a price for weight, every item takes its cheapest option, and the sum is a lower bound for every
solution. An option whose extra cost at that price exceeds what a known solution costs more than
the bound is in no better solution, so it is dropped. What is left is searched by sums of weights
where few of them differ, and else by HiGHS.

Sources: Zemel 1980 and Sinha and Zoltners 1979 for the relaxation, Pisinger 1995 for the reduction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from palettery.app.allocation.dynamic_programming import search_sums
from palettery.app.allocation.local_search import Moves

GAP: Final = 1e-6
"""Relative gap at which a solution counts as the best one."""
TIME_LIMIT_S: Final = 8.0
"""Time after which HiGHS stops; the gap of what it has found is then larger."""
SCALE: Final = 1e3
"""Size of cost and limit as HiGHS sees them; its absolute tolerances are about 1e-6."""
ROUNDING: Final = 1e-12
"""Rounding error of sums of costs, as a share of the cost."""
Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


@dataclass(frozen=True)
class Item:
    """One item and its options."""

    costs: Floats
    """Cost of each option, at least 0."""
    weights: Floats
    """Weight of each option, at least 0."""


@dataclass(frozen=True)
class Solution:
    """One option for each item."""

    options: tuple[int, ...]
    """Index of the option of each item."""
    cost: float
    weight: float
    gap: float
    """Relative difference of the cost to a bound that no solution is below; at most `GAP` where
    HiGHS had the time."""


class Solver:
    """Solutions for one set of items and any number of limits."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._kept = [_undominated(item) for item in items]
        self._moves = Moves(
            [(kept, item.costs[kept], item.weights[kept]) for item, kept in self._pairs()]
        )
        self._hull = _Hull([(item.costs[kept], item.weights[kept]) for item, kept in self._pairs()])

    @property
    def least_weight(self) -> float:
        """Weight of the lightest solution."""
        return self._hull.first.weight

    def solve(self, limit: float, time_limit_s: float = TIME_LIMIT_S) -> Solution | None:
        """Return the solution of least cost with at most this weight; None if there is none."""
        if limit < self.least_weight:
            return None
        point = self._hull.within(limit)
        known = self._solution(self._original(point.options), 0.0)
        if point.slope == 0:  # every item has its cheapest option
            return known
        known = self._solution(self._moves.improve(np.array(known.options), limit), 0.0)
        bound = point.cost - point.slope * (limit - point.weight)
        if known.cost - bound <= GAP * known.cost:
            return self._with_bound(known, bound)
        return self._search(known, bound, point.slope, limit, time_limit_s)

    def curve(self) -> list[Solution]:
        """Return solutions from the lightest to the cheapest; each is the best of its weight.

        They are the corners of the lower convex hull of all solutions; between corners there may
        be others that are the best of theirs.
        """
        return [
            self._solution(self._original(options), 0.0) for options in self._hull.corner_options()
        ]

    def _pairs(self) -> list[tuple[Item, Integers]]:
        return list(zip(self._items, self._kept, strict=True))

    def _original(self, options: Integers) -> Integers:
        """Return options of the items, from positions among those that are not dominated."""
        return np.array(
            [kept[at] for kept, at in zip(self._kept, options, strict=True)], dtype=np.intp
        )

    def _solution(self, options: Integers, gap: float) -> Solution:
        cost = sum(float(item.costs[at]) for item, at in zip(self._items, options, strict=True))
        weight = sum(float(item.weights[at]) for item, at in zip(self._items, options, strict=True))
        return Solution(tuple(int(at) for at in options), cost, weight, gap)

    def _with_bound(self, solution: Solution, bound: float) -> Solution:
        gap = max(0.0, solution.cost - bound) / solution.cost if solution.cost > 0 else 0.0
        return Solution(solution.options, solution.cost, solution.weight, gap)

    def _search(
        self, known: Solution, bound: float, slope: float, limit: float, time_limit_s: float
    ) -> Solution:
        """Return the best solution by HiGHS, of the options that can be in it."""
        core, fixed_cost, fixed_weight = [], 0.0, 0.0
        chosen = np.array(known.options)
        for number, (item, kept) in enumerate(self._pairs()):
            priced = item.costs[kept] + slope * item.weights[kept]
            able = kept[priced - priced.min() <= known.cost - bound + ROUNDING * known.cost]
            if len(able) == 1:
                chosen[number] = able[0]
                fixed_cost += float(item.costs[able[0]])
                fixed_weight += float(item.weights[able[0]])
            else:
                core.append((number, able))
        if not core:  # no other choice can be better than the known one
            return known
        room = limit - fixed_weight
        options = [(self._items[number], able) for number, able in core]
        window = known.cost - bound - GAP / 2 * known.cost
        solution, is_complete = search_sums(
            [(item.costs[able], item.weights[able]) for item, able in options], room, slope, window
        )
        if is_complete:
            lower = known.cost * (1 - GAP / 2)
            result = _CoreResult(solution, lower if solution is None else -inf)
        else:
            result = _solve_core(options, fixed_cost, room, known.cost, time_limit_s)
        best, lower = known, max(bound, result.bound)
        if result.options is not None:
            for (number, able), at in zip(core, result.options, strict=True):
                chosen[number] = able[at]
            other = self._solution(chosen, 0.0)
            if other.weight <= limit and other.cost < known.cost:
                best = other
        return self._with_bound(best, best.cost if is_complete and solution else lower)


@dataclass(frozen=True)
class _CoreResult:
    options: list[int] | None
    """Position of each item's option; None if HiGHS found no solution in its time."""
    bound: float
    """Cost that no solution is below."""


def _solve_core(
    core: Sequence[tuple[Item, Integers]],
    fixed_cost: float,
    limit: float,
    known_cost: float,
    time_limit_s: float,
) -> _CoreResult:
    """Solve for a few options of some items."""
    # A server that never solves one does not spend a second of its start on scipy.
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    costs = np.concatenate([item.costs[able] for item, able in core])
    weights = np.concatenate([item.weights[able] for item, able in core])
    owner = np.repeat(np.arange(len(core)), [len(able) for _, able in core])
    lightest = np.array([item.weights[able].min() for item, able in core])
    added, room = weights - lightest[owner], limit - lightest.sum()
    unit = max(float(added.max()), room) / SCALE or 1.0
    count = len(costs)
    one_each = coo_array((np.ones(count), (owner, np.arange(count))), (len(core), count + 1))
    # The last variable is 1: its cost is that of all fixed options, so that the gap is relative to
    # the whole.
    result = milp(
        np.append(costs, fixed_cost) * (SCALE / known_cost),
        integrality=np.ones(count + 1),
        bounds=Bounds(np.append(np.zeros(count), 1), 1),
        constraints=[
            LinearConstraint(one_each.tocsr(), 1, 1),
            LinearConstraint(np.append(added / unit, 0)[None], -inf, room / unit),
        ],
        options={"mip_rel_gap": GAP / 2, "time_limit": time_limit_s, "presolve": False},
    )
    bound = -inf if result.mip_dual_bound is None else result.mip_dual_bound * known_cost / SCALE
    if result.x is None:
        return _CoreResult(None, bound)
    ends = np.cumsum([0, *(len(able) for _, able in core)])
    options = [int(np.argmax(result.x[start:end])) for start, end in pairwise(ends)]
    return _CoreResult(options, bound)


def _undominated(item: Item) -> Integers:
    """Return options by weight, without those that a lighter or equal one does not cost more."""
    kept, best = [], inf
    for at in np.lexsort((item.costs, item.weights)):
        if item.costs[at] < best:
            kept.append(at)
            best = item.costs[at]
    return np.array(kept, dtype=np.intp)


@dataclass(frozen=True)
class _HullPoint:
    options: Integers
    cost: float
    weight: float
    slope: float
    """Cost that the next step saves per weight; 0 if there is none."""


class _Hull:
    """The lower convex hull of all solutions, as steps from the lightest of all.

    Each step replaces one item's option by the next on the item's own hull; steps are sorted by
    what they save per weight.
    """

    def __init__(self, items: Sequence[tuple[Floats, Floats]]) -> None:
        steps = []
        for number, (costs, weights) in enumerate(items):
            corners = _corners(costs, weights)
            for before, after in pairwise(corners):
                saved, added = costs[before] - costs[after], weights[after] - weights[before]
                steps.append((-saved / added, number, after, saved, added))
        steps.sort()
        self._steps = steps
        self._start = np.zeros(len(items), dtype=np.intp)
        first_cost = sum(float(costs[0]) for costs, _ in items)
        first_weight = sum(float(weights[0]) for _, weights in items)
        self._costs = first_cost - np.cumsum([0.0, *(step[3] for step in steps)])
        self._weights = first_weight + np.cumsum([0.0, *(step[4] for step in steps)])
        self.first = _HullPoint(self._start, first_cost, first_weight, 0.0)

    def within(self, limit: float) -> _HullPoint:
        """Return the last corner of at most this weight."""
        taken = max(0, int(np.searchsorted(self._weights, limit, side="right")) - 1)
        options = self._start.copy()
        for _, number, after, _, _ in self._steps[:taken]:
            options[number] = after
        slope = -float(self._steps[taken][0]) if taken < len(self._steps) else 0.0
        return _HullPoint(options, float(self._costs[taken]), float(self._weights[taken]), slope)

    def corner_options(self) -> list[Integers]:
        """Return the options of every corner; steps of one slope are taken together."""
        options, corners = self._start.copy(), []
        for at, (slope, number, after, _, _) in enumerate(self._steps):
            if at == 0 or slope != self._steps[at - 1][0]:
                corners.append(options.copy())
            options[number] = after
        return [*corners, options]


def _corners(costs: Floats, weights: Floats) -> list[int]:
    """Return the corners of the lower convex hull of options, ascending by weight."""
    corners: list[int] = []
    for at in range(len(costs)):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if (costs[b] - costs[a]) * (weights[at] - weights[a]) < (costs[at] - costs[a]) * (
                weights[b] - weights[a]
            ):
                break
            corners.pop()
        corners.append(at)
    return corners
