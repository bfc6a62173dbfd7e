"""Histograms of weights and of what stands for them, against numpy over every weight."""

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palettery.kernels import PaletteSettings, palettize, reconstruct
from palettery.kernels.distribution import CELLS, SAMPLE, Distribution, sampling_step
from tests.spanning import spanning

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
SETTINGS = {
    "per tensor": PaletteSettings(n_bits=4),
    "rows": PaletteSettings(n_bits=3, axis=0, group_size=8),
    "columns": PaletteSettings(n_bits=2, axis=1, group_size=16),
    "scaled": PaletteSettings(n_bits=4, axis=0, group_size=8, per_channel_scale=True),
    "vectors": PaletteSettings(n_bits=4, axis=0, group_size=8, cluster_dim=4),
    "quantized": PaletteSettings(n_bits=4, lut_dtype="int8"),
}


def distribution(weight, settings):
    palette = palettize(weight, settings)
    return palette.metrics.distribution, reconstruct(palette)


def histogram(values, exponent):
    edges = (np.arange(CELLS + 1) - CELLS // 2) * 2.0**exponent
    return np.histogram(values.astype(np.float64), edges)[0]


def made(counts, exponent=0, at=0):
    cells = np.zeros(CELLS, np.int64)
    cells[at : at + len(counts)] = counts
    return Distribution(exponent, cells, cells)


def test_weights_by_hand():
    weight = np.array([[-1.0, -0.5, 0.0, 0.5], [-1.0, -0.5, 0.0, 0.5]], np.float32)
    seen, _ = distribution(weight, PaletteSettings(n_bits=2))
    assert seen.exponent == -5  # 1.0 is the first number that 64 cells of 2**-6 do not hold
    assert seen.sample_size == 8
    assert {int(cell): int(seen.weights[cell]) for cell in np.flatnonzero(seen.weights)} == {
        32: 2,
        48: 2,
        64: 2,
        80: 2,
    }
    assert_array_equal(seen.reconstructed, seen.weights)


@pytest.mark.parametrize(
    ("shape", "name", "dtype"), spanning([(32, 48), (16, 32, 3, 3)], list(SETTINGS), DTYPES)
)
def test_all_weights_of_a_small_tensor_are_counted(shape, name, dtype):
    settings = SETTINGS[name]
    weight = np.random.default_rng(0).normal(0.01, 0.05, shape).astype(dtype)
    seen, dense = distribution(weight, settings)
    assert_array_equal(seen.weights, histogram(weight, seen.exponent))
    assert_array_equal(seen.reconstructed, histogram(dense, seen.exponent))
    largest = max(np.abs(weight.astype(float)).max(), np.abs(dense.astype(float)).max())
    assert 2.0**seen.exponent * CELLS // 4 <= largest * 2 < 2.0**seen.exponent * CELLS


@pytest.mark.parametrize("shape", [(1024, 768), (300, 333), (4096, 4096), (7, 1 << 15)])
def test_sample_is_spread_over_columns_and_rows(shape):
    at = np.unravel_index(np.arange(0, np.prod(shape), sampling_step(shape)), shape)
    assert SAMPLE // 2 < len(at[0]) <= SAMPLE
    for axis, size in enumerate(shape):
        assert len(np.unique(at[axis])) >= min(size, SAMPLE) * 0.9


def test_large_tensor_is_sampled_alike():
    weight = np.random.default_rng(0).normal(0, 0.05, (1024, 768)).astype(np.float32)
    seen, _ = distribution(weight, PaletteSettings(n_bits=4, group_size=16))
    assert seen.sample_size <= SAMPLE
    shares = histogram(weight, seen.exponent) / weight.size
    assert np.abs(shares - seen.weights / seen.sample_size).sum() < 0.05


@pytest.mark.parametrize("weight", [np.zeros((4, 4), np.float32), np.full((4, 4), 5e-324)])
def test_weights_at_the_edge_of_a_dtype(weight):
    seen, _ = distribution(weight, PaletteSettings(n_bits=1))
    assert seen.sample_size == 16
    assert seen.reconstructed.sum() == 16


def test_largest_numbers_of_a_dtype():
    weight = np.array([[1.7e38, -1.7e38]] * 2, np.float32)  # just below 2**127
    seen, _ = distribution(weight, PaletteSettings(n_bits=1))
    assert seen.exponent == 121
    assert int(seen.weights[0]) == int(seen.weights[-1]) == 2


def test_sum_of_unequal_cells_by_hand():
    total = made([1, 2, 4, 8], exponent=1, at=62) + made([1, 1, 1, 1], exponent=0, at=62)
    assert total.exponent == 1
    assert_array_equal(total.weights[61:67], [0, 1, 4, 6, 8, 0])


def test_sum_with_far_larger_numbers():
    total = made([3, 5], exponent=-900, at=63) + made([1], exponent=900, at=64)
    assert_array_equal(total.weights[62:66], [0, 3, 6, 0])
