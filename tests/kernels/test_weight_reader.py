"""Values of a weight and their masses, by hand."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palettery.kernels.errors import NonFiniteError
from palettery.kernels.groups import GroupLayout
from palettery.kernels.weight_reader import WeightReader, raise_non_finite

WEIGHT = np.array([[1, 2], [4, 8], [3, 6], [5, 10]], np.float32)
ROWS = GroupLayout((4, 2), 0, 2)


def test_plain_weights_are_read_as_they_are():
    reader = WeightReader(WEIGHT, ROWS)
    assert_array_equal(reader.values(range(1, 2)), [[3, 6, 5, 10]])
    assert_array_equal(reader.entries(range(1)), [[1, 2, 4, 8]])
    assert reader.masses(range(2)) is None
    assert not reader.values(range(2)).flags.writeable


def test_rows_are_scaled_and_their_errors_weigh_the_square():
    scale = np.array([[2], [8], [6], [10]], np.float32)
    reader = WeightReader(WEIGHT, ROWS, scale, largest_scale=10.0)
    assert_array_equal(reader.values(range(2)), [[0.5, 1, 0.5, 1]] * 2)
    expected = np.float64([[4, 4, 64, 64], [36, 36, 100, 100]]) / 100
    np.testing.assert_allclose(reader.masses(range(2)), expected)


def test_sensitivity_is_the_mass():
    sensitivity = np.arange(8, dtype=np.float16).reshape(4, 2)
    masses = WeightReader(WEIGHT, ROWS, sensitivity=sensitivity).masses(range(2))
    assert masses.dtype == np.float64
    assert_array_equal(masses, [[0, 1, 2, 3], [4, 5, 6, 7]])


def test_scaled_halves_are_rounded_to_halves():
    weight = np.array([[1, 3]], np.float16)
    reader = WeightReader(weight, GroupLayout((1, 2), 0, 1), np.array([[3]], np.float32))
    assert reader.values(range(1))[0, 0] == np.float32(1) / np.float32(3)
    assert reader.entries(range(1))[0, 0] == np.float16(1 / 3)


def test_codes_are_the_bits():
    weight = np.array([[1.0, -2.0]], np.float16)
    codes = WeightReader(weight, GroupLayout((1, 2), 0, 1)).codes(range(1))
    assert_array_equal(codes, [[0x3C00, 0xC000]])


def test_vectors_are_scaled_too():
    scale = np.array([[2], [8], [6], [10]], np.float32)
    vectors = WeightReader(WEIGHT, ROWS, scale).vectors(range(1), 2)
    assert_array_equal(vectors, [[[0.5, 0.5], [1, 1]]])


def test_first_weight_that_is_not_finite_is_named():
    blocks = [np.ones((2, 2)), np.array([[1, np.nan], [np.inf, 1]])]
    with pytest.raises(NonFiniteError, match=r"2 of 8 .* first is nan at index \[2, 1\]"):
        raise_non_finite(blocks, (4, 2))
    with pytest.raises(NonFiniteError, match="overflow"):
        raise_non_finite([np.ones((4, 2))], (4, 2))
