"""Cheapest paths of k links against dynamic programming over all cells."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palettery.kernels.scalar.dynamic_programming import dynamic_programming_cuts
from palettery.kernels.scalar.k_link_path import cheapest_cells, cheapest_path, path_cuts


def prefix_sums(points, mass):
    return tuple(np.append(0, np.cumsum(part)) for part in (mass, mass * points))


@pytest.mark.parametrize("k", [2, 4, 16, 64])
@pytest.mark.parametrize("weighted", [False, True])
def test_cells_are_those_of_dynamic_programming(k, weighted):
    rng = np.random.default_rng(k)
    points = np.sort(rng.normal(size=500))
    mass = rng.uniform(0.1, 1, 500) if weighted else np.ones(500)
    cuts, penalty, paths = cheapest_cells(*prefix_sums(points, mass), k, 1.0)
    assert penalty > 0
    assert paths > 0
    assert_array_equal(cuts, dynamic_programming_cuts(points, mass, k))


def test_path_by_hand():
    weights, moments = prefix_sums(np.array([0.0, 1.0, 10.0, 11.0]), np.ones(4))
    sums = np.column_stack([weights, moments, np.zeros(5)])
    parents, links = np.zeros(5, np.int32), np.zeros(5, np.int32)
    for penalty, expected in ((1e3, [0, 4]), (1.0, [0, 2, 4]), (1e-3, [0, 1, 2, 3, 4])):
        cheapest_path(sums, penalty, parents, links)
        assert_array_equal(path_cuts(parents, links), expected)
