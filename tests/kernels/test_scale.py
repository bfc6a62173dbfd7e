"""Scales of rows by hand."""

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palettery.kernels.errors import NonFiniteError
from palettery.kernels.scale import row_scale, unscale

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_scale_is_the_largest_magnitude_and_1_for_zeros(dtype):
    weight = np.array([[1, -4, 2], [0, -0.0, 0], [0.5, 0.25, -0.125]], dtype)
    scale = row_scale(weight, threads=1)
    assert scale.dtype == np.float32
    assert_array_equal(scale, [[4], [1], [0.5]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_is_refused(dtype, bad):
    with pytest.raises(NonFiniteError):
        row_scale(np.array([[1, bad]], dtype), threads=1)


def test_what_float32_cannot_hold_is_refused():
    with pytest.raises(NonFiniteError):
        row_scale(np.array([[1e300]]), threads=1)


def test_unscale_multiplies_each_row_in_place():
    dense = np.array([[1, -0.5], [0.25, 1]], np.float16)
    unscale(dense, np.array([[4], [0.5]], np.float32), threads=1)
    assert_array_equal(dense, [[4, -2], [0.125, 0.5]])
