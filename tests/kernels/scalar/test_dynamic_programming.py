"""Optimal cuts against all cuts there are."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from palettery.kernels.scalar.dynamic_programming import cell_costs, dynamic_programming_cuts


def cost(points, mass):
    mean = np.average(points, weights=mass)
    return float((mass * (points - mean) ** 2).sum())


def test_costs_and_means_by_hand():
    costs, means = cell_costs(np.array([0.0, 2.0, 5.0]), np.array([1.0, 3.0, 0.5]))
    assert (costs[0, 2], means[0, 2]) == (3.0, 1.5)
    assert costs[1, 2] == 0
    assert means[2, 3] == 5


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_cuts_are_the_best_of_all(k, weighted):
    rng = np.random.default_rng(k)
    for _ in range(20):
        points = np.sort(rng.normal(size=8).round(1))
        mass = 10.0 ** rng.uniform(-6, 0, 8) if weighted else np.ones(8)
        found = dynamic_programming_cuts(points, mass if weighted else np.empty(0), k)
        totals = [
            sum(cost(points[a:b], mass[a:b]) for a, b in pairwise((0, *cuts, 8)))
            for cuts in combinations(range(1, 8), k - 1)
        ]
        ours = sum(cost(points[a:b], mass[a:b]) for a, b in pairwise(found))
        assert_allclose(ours, min(totals), rtol=1e-12, atol=1e-24)


def test_values_far_apart_lose_no_digits():
    points = np.array([-1e9, 1.0, 1.0 + 1e-9, 3.0, 1e9])
    assert_array_equal(dynamic_programming_cuts(points, np.empty(0), 4), [0, 1, 3, 4, 5])
