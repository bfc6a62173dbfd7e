"""Candidate cuts: where they lie, and the cube roots that decide it."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from palettery.kernels.scalar.candidates import candidate_cuts, cube_roots


def test_cube_roots():
    numbers = np.array([0.0, 1e-280, 1e-30, 1.0, 27.0, 1e30])
    assert_allclose(cube_roots(numbers), np.cbrt(numbers), rtol=2e-4)


def candidates(points, k):
    weights = np.arange(points.size + 1.0)
    found, penalty = candidate_cuts(points, weights, k)
    assert penalty > 0
    return found


@pytest.mark.heavy
def test_few_points_are_all_candidates():
    points = np.sort(np.random.default_rng(0).normal(size=200))
    assert_array_equal(candidates(points, 4), np.arange(201))


def test_candidates_of_many_points_ascend_from_the_first_to_the_last():
    points = np.sort(np.random.default_rng(0).standard_t(2, size=20_000))
    found = candidates(points, 16)
    assert (found[0], found[-1]) == (0, 20_000)
    assert (np.diff(found) > 0).all()
    assert 2 * 16 <= found.size < 2_000


def test_an_outlier_leaves_candidates_for_the_bulk():
    points = np.append(np.sort(np.random.default_rng(0).normal(size=20_000)), 1e9)
    found = candidates(points, 16)
    assert found.size > 64
    assert np.diff(found).max() < 2_000
