"""Equal values merged by hand."""

import numpy as np
from numpy.testing import assert_array_equal

from palettery.kernels.scalar.merging import UNEQUAL, count_distinct, is_worth_merging, merge_equal

VALUES = np.array([-1, 0, 0, 2, 2, 2], np.float32)


def test_equal_values_are_one_with_their_mass():
    assert count_distinct(VALUES) == 3
    points, masses = merge_equal(VALUES, np.empty(0), 3)
    assert_array_equal(points, [-1, 0, 2])
    assert_array_equal(masses, [1, 2, 3])
    _, masses = merge_equal(VALUES, np.array([1.0, 0.5, 0.25, 1, 1, 2]), 3)
    assert_array_equal(masses, [1, 0.75, 4])


def test_it_is_worth_it_with_more_than_a_few_equals():
    assert not is_worth_merging(10 * UNEQUAL, 9 * UNEQUAL + UNEQUAL - 10)
    assert is_worth_merging(10 * UNEQUAL, 9 * UNEQUAL + UNEQUAL - 11)
