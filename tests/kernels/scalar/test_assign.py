"""Cells of values against the nearest entry, one by one."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palettery.kernels.scalar.assign import assign, cell_thresholds, measure_errors

LUTS = {
    "even": np.linspace(-1, 1, 16),
    "uneven": np.concatenate([[-1e6], np.linspace(-1e-3, 1e-3, 14), [1e6]]),
    "two": np.array([0.0, 1.0]),
    "equal": np.array([0.0, 0.0, 0.0, 1.0]),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LUTS)
def test_every_value_has_its_nearest_entry(name, dtype):
    lut = LUTS[name].astype(dtype)
    values = np.random.default_rng(0).normal(size=3000).astype(dtype)
    values[:4] = [-1e30, 1e30, lut[0], lut[-1]]
    cells = np.empty(values.size, np.uint8)
    assign(values, cell_thresholds(lut), cells)
    distances = np.abs(values.astype(float)[:, None] - lut.astype(float))
    assert_array_equal(distances[np.arange(values.size), cells], distances.min(axis=1))


def test_value_on_a_threshold_takes_the_upper_cell():
    thresholds = cell_thresholds(np.array([0.0, 1.0, 4.0]))
    assert_array_equal(thresholds, [0.5, 2.5])
    cells = np.empty(3, np.uint8)
    assign(np.array([0.5, 2.5, np.nextafter(2.5, 0)]), thresholds, cells)
    assert_array_equal(cells, [1, 2, 1])


def test_threshold_is_rounded_up_to_the_dtype():
    low = np.float32(1)
    lut = np.array([low, np.nextafter(low, np.float32(2))])
    assert_array_equal(cell_thresholds(lut), lut[1:])


def test_errors_by_hand():
    values, cells = np.array([1.0, -2.0, 3.0]), np.array([0, 0, 1], np.uint8)
    occupancy = np.array([5, 0])
    assert measure_errors(values, cells, np.array([0.0, 2.5]), occupancy) == (5.25, 14.0, 2.0)
    assert_array_equal(occupancy, [7, 1])
