"""Smoothing of sensitivities."""

import numpy as np

from palettery.app.calibration.tensor_matching import smooth


def test_independent_rows_and_columns_stay_as_they_are():
    product = np.outer([1, 2, 0], [4, 0.5]).astype(np.float32)
    np.testing.assert_allclose(smooth(product, is_layer=True), product, rtol=1e-6)
    kernels = product.reshape(3, 1, 2)
    assert smooth(kernels, is_layer=True).shape == kernels.shape


def test_a_single_value_is_shared_with_its_row_and_column():
    single = np.array([[8, 0], [0, 0]], np.float32)
    np.testing.assert_allclose(smooth(single, is_layer=True), [[8, 0], [0, 0]])
    several = np.array([[8, 0], [0, 8]], np.float32)
    np.testing.assert_allclose(smooth(several, is_layer=True), [[6, 2], [2, 6]])


def test_rows_that_no_sample_reached_count():
    rows = np.array([[3, 6], [0, 0], [0, 0]], np.float32)
    np.testing.assert_allclose(smooth(rows, is_layer=False), [[4, 8], [1, 2], [1, 2]])


def test_nothing_becomes_no_number():
    zeros = np.zeros((2, 2), np.float32)
    assert not smooth(zeros, is_layer=True).any()
