"""Errors between tensors against numpy in float64."""

import itertools

import ml_dtypes
import numpy as np
import pytest
import torch

from palettery.kernels.metrics import errors

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def pair(left, right, n=600_000):
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.05, n)
    return values.astype(left), (values + rng.normal(0, 0.01, n)).astype(right)


@pytest.mark.parametrize(("left", "right"), list(itertools.product(DTYPES, repeat=2)))
def test_sums_are_those_of_numpy(left, right):
    original, other = pair(left, right)
    measured = errors(original, other)
    wide, difference = original.astype(float), original.astype(float) - other.astype(float)
    assert measured.sse == pytest.approx((difference**2).sum(), rel=1e-12)
    assert measured.signal == pytest.approx((wide**2).sum(), rel=1e-12)
    assert measured.max_error == np.abs(difference).max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_a_bit(dtype):
    original, other = pair(dtype, dtype, 3_000_001)
    one = errors(original, other, threads=1)
    assert all(errors(original, other, threads=threads) == one for threads in (2, 3, 8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_alignment_do_not_matter(dtype):
    original, other = (array.reshape(600, 1000) for array in pair(dtype, dtype))
    measured = errors(original[::2, ::3], other[::2, ::3])
    packed = errors(original[::2, ::3].copy(), other[::2, ::3].copy())
    assert measured == packed
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(original.nbytes + 1, np.uint8)
    shifted = raw[1:].view(dtype).reshape(original.shape)
    shifted[...] = original
    assert not shifted.flags.aligned or itemsize == 1
    assert errors(shifted, other) == errors(original, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensors_are_compared(dtype):
    original = torch.arange(10).to(dtype)
    other = original.clone()
    other[3] += 2
    assert errors(original, other).sse == 4


def test_nothing_is_far_from_nothing():
    measured = errors(np.empty((0, 3), np.float32), np.empty((0, 3), np.float32))
    assert (measured.sse, measured.signal, measured.max_error) == (0, 0, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_shows(dtype):
    original, other = pair(dtype, dtype, 3000)
    original[1700] = np.nan
    assert np.isnan(errors(original, other).sse)
    original[1700] = np.inf
    assert errors(original, other).sse == np.inf


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"shapes \[2\] and \[3\] differ"):
        errors(np.ones(2), np.ones(3))
