"""Refinement of cuts: places to try, and that it ends at the best cuts."""

import numpy as np
from numpy.testing import assert_array_equal

from palettery.kernels.scalar.cut_refinement import (
    WINDOW_POSITIONS,
    positions_around,
    refine_cuts,
    split_cells,
)
from palettery.kernels.scalar.dynamic_programming import dynamic_programming_cuts


def test_parts_divide_every_cell_evenly_and_are_distinct():
    assert_array_equal(split_cells(np.array([0, 8, 10]), 4), [0, 2, 4, 6, 8, 9, 10])


def test_places_lie_around_the_cuts_and_never_cross():
    cuts = np.array([0, 1000, 1010, 5000])
    places, finest = positions_around(cuts, 1 << 20)
    assert finest
    assert (np.diff(places) > 0).all()
    assert set(cuts) <= set(places)
    near = places[(places > 0) & (places < 1005)]
    assert near.min() == 1000 - WINDOW_POSITIONS


def test_cuts_far_off_become_the_best():
    points = np.sort(np.random.default_rng(2).normal(size=700))
    weights, moments = (np.append(0, np.cumsum(part)) for part in (np.ones(700), points))
    cuts = np.array([0, 10, 20, 30, 700])
    assert refine_cuts(weights, moments, cuts, 1.0) > 0
    assert_array_equal(cuts, dynamic_programming_cuts(points, np.empty(0), 4))


def test_one_cell_has_nothing_to_move():
    cuts = np.array([0, 3])
    assert refine_cuts(np.arange(4.0), np.arange(4.0), cuts, 1.0) == 0
