"""Tables of the distinct values of a large group."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palettery.kernels.scalar.distinct_values import MAX_DISTINCT, DistinctValues

NO_MASS = np.empty(0)


def test_both_zeros_and_values_in_several_lanes_are_one_and_values_of_no_mass_are_left_out() -> (
    None
):
    table = DistinctValues(2, weighted=True)
    table.add(0, np.array([0.0, -0.0, 2.5, -1e-45], np.float32), np.array([1.0, 2.0, 1.0, 0.0]))
    table.add(1, np.array([-3.0, -0.0, 2.5], np.float32), np.array([5.0, 1.0, 9.0]))
    points, masses = table.points()
    assert_array_equal(points, [-3.0, 0.0, 2.5])
    assert_array_equal(masses, np.array([5.0, 4.0, 10.0]) / 10)


def test_values_count_alike_where_none_has_a_mass() -> None:
    table = DistinctValues(1, weighted=True)
    table.add(0, np.array([3.0, 1.0, 3.0], np.float32), np.zeros(3))
    points, masses = table.points()
    assert_array_equal(points, [1.0, 3.0])
    assert_array_equal(masses, [0.5, 1.0])


@pytest.mark.parametrize(("distinct", "fits"), [(MAX_DISTINCT, True), (MAX_DISTINCT + 1, False)])
def test_a_table_holds_so_many_distinct_values_and_no_more(distinct, fits):
    table = DistinctValues(1, weighted=False)
    values = np.random.default_rng(0).permutation(np.repeat(np.arange(distinct), 3))
    for part in np.array_split(values.astype(np.float32), 7):
        table.add(0, part, NO_MASS)
    points = table.points()
    assert (points is not None) == fits
    if points is not None:
        assert_array_equal(points[0], np.arange(distinct))
        assert_array_equal(points[1], 1)
