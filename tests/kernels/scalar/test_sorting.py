"""Radix order against numpy's, on what radix passes could get wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from palettery.kernels.scalar.scratch_buffers import ScratchBuffers
from palettery.kernels.scalar.sorting import MIN_RADIX_SIZE, sort_order, sort_values

RNG = np.random.default_rng(0)
VALUES = {
    "normal": RNG.normal(size=5000),
    "few": RNG.integers(-3, 4, 5000) / 4,
    "constant": np.full(5000, -0.3),
    "zeros of both signs": np.tile([0.0, -0.0], 2500),
    "a sliver and an outlier": np.append(1 + 1e-4 * RNG.random(5000), 1e30),
    "slivers on both sides": np.concatenate([s + 1e-5 * RNG.random(3000) for s in (-1, 1)]),
    "descending": -np.arange(5000.0),
    "denormal": 1e-44 * RNG.integers(-9, 9, 5000),
    "extreme": RNG.normal(size=5000) * 10.0 ** RNG.integers(-38, 38, 5000),
    "one": np.array([2.0]),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_is_that_of_numpy(name, dtype):
    values = VALUES[name].astype(dtype)
    assert_array_equal(sort_values(values.copy(), ScratchBuffers()), np.sort(values))
    order = sort_order(values.copy())
    assert_array_equal(np.sort(order), np.arange(values.size))
    assert_array_equal(values[order], np.sort(values))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(MIN_RADIX_SIZE, 3 * MIN_RADIX_SIZE), st.integers(0, 31), st.integers(0, 2**32 - 1)
)
def test_any_span_of_bits(n, shift, seed):
    bits = np.random.default_rng(seed).integers(0, 2**32, n, dtype=np.uint32) >> np.uint32(shift)
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]
    assert_array_equal(sort_values(values, ScratchBuffers()), np.sort(values))


def test_equal_values_keep_their_order():
    values = np.repeat(np.float32([2, 1]), MIN_RADIX_SIZE)
    assert_array_equal(sort_order(values), np.argsort(values, kind="stable"))


def test_what_is_not_finite_lies_at_the_ends():
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        values = np.append(np.arange(MIN_RADIX_SIZE, dtype=np.float32), np.float32(bad))
        result = sort_values(values, ScratchBuffers())
        assert not np.isfinite(result[[0, -1]]).all()


def test_scratch_is_used_again_and_values_stay_as_they_were():
    scratch, values = ScratchBuffers(), RNG.normal(size=MIN_RADIX_SIZE).astype(np.float32)
    before = values.copy()
    first = sort_values(values, scratch).copy()
    assert_array_equal(sort_values(values, scratch), first)
    assert_array_equal(values, before)
