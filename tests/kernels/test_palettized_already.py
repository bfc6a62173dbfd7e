"""Groups of no more distinct values than entries keep them, beside groups that have more."""

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palettery.kernels import PaletteSettings, palettize, reconstruct
from tests.spanning import spanning

ROWS, COLUMNS, GROUP = 48, 40, 8
DTYPES = ["float32", "float16", "bfloat16", "float64"]
SCALES = [1e-7, 0.03, 1.0, 300.0]
"""From values that fast mode rounds to zero to values of several digits before the point."""
SCALAR = spanning([1, 2, 3, 4, 6, 8], DTYPES, SCALES, [None, 1, 4], [0, 1], [False, True])
VECTOR = spanning([1, 2, 4, 6], DTYPES, SCALES, [2, 4], [False, True])


def as_dtype(values, dtype):
    return values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def sensitivities(rng, shape, weighted):
    """Weights of the error over twelve decades, or none."""
    return (10 ** rng.uniform(-12, 0, shape)).astype(np.float32) if weighted else None


def assert_same(palette, weight, rows):
    assert_array_equal(np.asarray(reconstruct(palette))[rows], weight[rows])


@pytest.mark.parametrize(
    ("n_bits", "dtype", "scale", "decimals", "axis", "weighted"), SCALAR, ids=str
)
def test_scalar_groups(n_bits, dtype, scale, decimals, axis, weighted):
    rng = np.random.default_rng(n_bits)
    settings = PaletteSettings(n_bits, axis=axis, group_size=GROUP, rounding_precision=decimals)
    for number in range(2, 2**n_bits + 1, max(1, 2**n_bits // 5)):
        weight = rng.normal(size=(ROWS, COLUMNS)) * scale
        few = np.arange(0, ROWS, 2 * GROUP)[:, None] + np.arange(GROUP)
        pool = np.append(rng.normal(size=number - 1) * scale, 0.0)
        weight[few] = rng.choice(pool, (*few.shape, COLUMNS))
        weight = as_dtype(weight, dtype)
        if axis == 1:
            weight = np.ascontiguousarray(weight.T)
        palette = palettize(weight, settings, sensitivities(rng, weight.shape, weighted))
        kept = few.ravel() if axis == 0 else (slice(None), few.ravel())
        assert_same(palette, weight, kept)


@pytest.mark.parametrize(("n_bits", "dtype", "scale", "cluster_dim", "weighted"), VECTOR, ids=str)
def test_vector_groups(n_bits, dtype, scale, cluster_dim, weighted):
    rng = np.random.default_rng(n_bits)
    settings = PaletteSettings(n_bits, group_size=GROUP, cluster_dim=cluster_dim)
    for number in (2, 2**n_bits):
        weight = rng.normal(size=(ROWS, COLUMNS)) * scale
        pool = rng.normal(size=(number, cluster_dim)) * scale
        few = np.arange(0, ROWS, 2 * GROUP)
        for first in few:
            drawn = rng.choice(pool, (GROUP // cluster_dim, COLUMNS))
            weight[first : first + GROUP] = drawn.transpose(0, 2, 1).reshape(GROUP, COLUMNS)
        weight = as_dtype(weight, dtype)
        palette = palettize(weight, settings, sensitivities(rng, weight.shape, weighted))
        assert_same(palette, weight, (few[:, None] + np.arange(GROUP)).ravel())
