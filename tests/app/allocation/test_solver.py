"""Choices of the solver against all combinations of options."""

import numpy as np
import pytest

from benchmarks.targets import instance
from palettery.app.allocation import dynamic_programming
from palettery.app.allocation.solver import GAP, Item, Solver

PATIENCE_S = 600.0


def combinations(items):
    """Weight and cost of every solution."""
    weights, costs = np.zeros(1), np.zeros(1)
    for item in items:
        weights = (weights[:, None] + item.weights).ravel()
        costs = (costs[:, None] + item.costs).ravel()
    return weights, costs


@pytest.mark.parametrize("seed", range(200))
def test_as_good_as_the_best_of_all_combinations(seed):
    check_against_all_combinations(seed)


@pytest.mark.parametrize("seed", range(40))
def test_highs_is_as_good_where_there_are_too_many_sums(seed, monkeypatch):
    monkeypatch.setattr(dynamic_programming, "MAX_SUMS", 0)
    check_against_all_combinations(seed)


def check_against_all_combinations(seed):
    rng = np.random.default_rng(seed)
    items = instance(int(rng.integers(1, 9)), int(rng.integers(1, 7)), rng)
    weights, costs = combinations(items)
    limit = float(np.floor(rng.uniform(weights.min(), weights.max())))
    limit = max(limit, float(weights.min()))
    best = costs[weights <= limit].min()
    found = Solver(items).solve(limit)
    assert found.weight <= limit
    assert best <= found.cost * (1 + 1e-12)
    assert found.cost <= best * (1 + GAP)
    assert found.gap <= GAP
    chosen = list(zip(items, found.options, strict=True))
    assert found.cost == pytest.approx(sum(item.costs[at] for item, at in chosen))
    assert found.weight == sum(item.weights[at] for item, at in chosen)


def test_corners_of_the_curve_are_the_best_of_their_weight():
    items = instance(6, 5, np.random.default_rng(1))
    weights, costs = combinations(items)
    corners = Solver(items).curve()
    assert len(corners) > 6
    assert [each.weight for each in corners] == sorted(each.weight for each in corners)
    for corner in corners:
        assert corner.cost == pytest.approx(costs[weights <= corner.weight].min(), rel=1e-12)
    assert corners[0].weight == weights.min()
    assert corners[-1].cost == pytest.approx(costs.min())


def test_a_limit_below_the_lightest_solution():
    items = [Item(np.array([1.0, 0.5]), np.array([10.0, 20.0]))] * 3
    solver = Solver(items)
    assert solver.least_weight == 30
    assert solver.solve(29) is None
    assert solver.solve(30).options == (0, 0, 0)
    assert solver.solve(49).cost == 2.5


def test_equal_costs_take_the_lighter_option():
    items = [Item(np.array([1.0, 1.0, 0.0, 0.0]), np.array([9.0, 5.0, 30.0, 20.0]))]
    assert Solver(items).solve(19).options == (1,)
    assert Solver(items).solve(40).options == (3,)


def test_a_choice_that_nothing_can_replace():
    items = [Item(np.array([100.0, 1.0]), np.array([0.0, 50.0])) for _ in range(3)]
    found = Solver(items).solve(149)
    assert (found.options.count(1), found.cost) == (2, 102.0)
    found = Solver(items).solve(100.5)
    assert found.options.count(1) == 2
    assert found.gap <= GAP


def test_a_solution_of_no_cost():
    items = [Item(np.array([0.0, 1.0]), np.array([8.0, 2.0])) for _ in range(4)]
    found = Solver(items).solve(32)
    assert (found.cost, found.gap) == (0.0, 0.0)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.6])
def test_500_items_have_a_certified_gap(fraction):
    items = instance(500, 12, np.random.default_rng(5))
    least, most = (sum(f(item.weights) for item in items) for f in (min, max))
    found = Solver(items).solve(least + fraction * (most - least), PATIENCE_S)
    assert found.gap <= GAP


def test_equal_items_have_a_certified_gap():
    """As in models of many layers of equal shapes; branch and bound alone takes minutes."""
    rng, bits = np.random.default_rng(0), np.array([1, 2, 3, 4, 6, 8])
    weights = np.floor(2**17 * bits + 4 * 2.0**bits)
    items = [
        Item(rng.lognormal(0, 1.5) * 4.0**-bits * rng.uniform(0.8, 1.1, 6), weights)
        for _ in range(400)
    ]
    found = Solver(items).solve(400 * weights[2] + 1000, PATIENCE_S)
    assert found.weight <= 400 * weights[2] + 1000
    assert found.gap <= GAP


def test_time_is_limited_and_the_gap_is_told():
    items = instance(500, 12, np.random.default_rng(6))
    least, most = (sum(f(item.weights) for item in items) for f in (min, max))
    limit = least + 0.3 * (most - least)
    hasty, thorough = (Solver(items).solve(limit, seconds) for seconds in (0.0, PATIENCE_S))
    assert thorough.gap <= GAP
    assert hasty.weight <= limit
    assert thorough.cost <= hasty.cost <= thorough.cost * (1 + hasty.gap + 1e-9)


def test_pairs_of_one_slope_are_one_corner():
    items = [Item(np.array([2.0, 1.0, 0.0]), np.array([1.0, 2.0, 3.0]))] * 2
    assert [each.weight for each in Solver(items).curve()] == [2, 6]
    assert Solver(items).solve(3).cost == 3
