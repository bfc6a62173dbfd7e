"""`palettize` and `reconstruct`: layouts, dtypes, array kinds, fast mode, and bad input."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from palettery.kernels import PaletteSettings, palettize, reconstruct
from palettery.kernels.errors import (
    DivisibilityError,
    NonFiniteError,
    SensitivityError,
    WeightError,
)
from palettery.kernels.scalar import cpu, large_groups

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(dtype)


def nearest_by_hand(block, lut):
    """Error of the weights at their nearest entries, entry by entry."""
    distance = np.abs(block.astype(np.float64).reshape(-1, 1) - lut.astype(np.float64).reshape(-1))
    return float((distance.min(axis=1) ** 2).sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3, 3), (8, 4, 5)])
@pytest.mark.parametrize("axis", [0, 1])
def test_each_group_has_its_own_palette(shape, axis, dtype):
    weight = normal(*shape, dtype=dtype)
    palette = palettize(weight, PaletteSettings(3, axis=axis, group_size=2))
    groups = shape[axis] // 2
    ones = [1] * (len(shape) - 2)
    assert palette.lut.shape == ((groups, 1) if axis == 0 else (1, groups)) + (*ones, 8, 1)
    assert palette.lut.dtype == weight.dtype
    dense = reconstruct(palette)
    for group, (block, back) in enumerate(
        zip(np.split(weight, groups, axis), np.split(dense, groups, axis), strict=True)
    ):
        lut = palette.lut.reshape(groups, 8)[group]
        assert set(back.reshape(-1).tolist()) <= set(lut.tolist())
        error = back.astype(np.float64) - block.astype(np.float64)
        assert np.isclose((error**2).sum(), nearest_by_hand(block, lut))
        assert np.isclose(palette.metrics.group_sse[group], (error**2).sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "settings",
    [
        PaletteSettings(4),
        PaletteSettings(8, group_size=4, per_channel_scale=True),
        PaletteSettings(2, rounding_precision=4),
        PaletteSettings(4, lut_dtype="int8", lut_scheme="asymmetric", group_size=4),
        PaletteSettings(4, lut_dtype="float8_e4m3fn", per_channel_scale=True),
        PaletteSettings(4, cluster_dim=2),
        PaletteSettings(4, cluster_dim=4, group_size=8, axis=1, per_channel_scale=True),
    ],
    ids=str,
)
def test_metrics_tell_what_reconstruct_gives(settings, dtype):
    weight = normal(16, 24, dtype=dtype)
    palette = palettize(weight, settings)
    dense = reconstruct(palette)
    assert (dense.shape, dense.dtype) == (weight.shape, weight.dtype)
    error = dense.astype(np.float64) - weight.astype(np.float64)
    assert np.isclose(palette.metrics.sse, (error**2).sum(), rtol=1e-9)
    assert np.isclose(palette.metrics.signal, (weight.astype(np.float64) ** 2).sum())
    assert np.isclose(palette.metrics.max_error, np.abs(error).max())
    assert palette.metrics.occupancy.sum() == palette.indices.size
    assert palette.indices.shape == (16 // settings.cluster_dim, 24)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_in_tensors_out(dtype):
    weight = (torch.arange(96).reshape(8, 12) / 7).sin().to(dtype)
    settings = PaletteSettings(3, group_size=4, per_channel_scale=True)
    palette = palettize(weight.T.contiguous().T, settings)
    dense = reconstruct(palette)
    assert (palette.dtype, dense.dtype, dense.shape) == (dtype, dtype, weight.shape)
    assert (palette.indices.dtype, palette.lut.dtype) == (torch.uint8, dtype)
    alike = palettize(weight, settings)
    assert torch.equal(palette.indices, alike.indices)
    assert torch.equal(dense, reconstruct(alike))


def test_strides_do_not_matter():
    weight = normal(16, 32)
    expected = palettize(weight, PaletteSettings(4, group_size=4)).indices
    sparse = np.zeros((32, 64), np.float32)
    sparse[::2, ::2] = weight
    result = palettize(sparse[::2, ::2], PaletteSettings(4, group_size=4)).indices
    assert_array_equal(result, expected)
    reversed_rows = palettize(np.ascontiguousarray(weight[::-1])[::-1], PaletteSettings(4)).indices
    assert_array_equal(reversed_rows, palettize(weight, PaletteSettings(4)).indices)


@pytest.mark.parametrize("sensitive", [False, True])
def test_large_groups_are_binned_to_the_same_error(sensitive, monkeypatch):
    weight = normal(64, 1024)
    weight[0, :7] = 3
    importance = np.random.default_rng(1).uniform(0, 1, weight.shape) if sensitive else None
    sorted_ = palettize(weight, PaletteSettings(4), importance)
    monkeypatch.setattr(cpu, "MAX_SORTED_ELEMENTS", 100)
    monkeypatch.setattr(large_groups, "PIECE_ELEMENTS", 5000)
    binned = palettize(weight, PaletteSettings(4), importance, threads=1)
    weights = np.ones(weight.shape) if importance is None else importance
    errors = [
        float((weights * (reconstruct(palette).astype(np.float64) - weight) ** 2).sum())
        for palette in (sorted_, binned)
    ]
    assert np.isclose(errors[1], errors[0], rtol=1e-6)
    again = palettize(weight, PaletteSettings(4), importance, threads=3)
    assert_array_equal(again.lut, binned.lut)
    assert again.metrics.sse == binned.metrics.sse


def test_sensitive_weights_get_entries():
    weight = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    importance = np.array([[1.0, 0.0, 0.0, 1.0]], np.float32)
    palette = palettize(weight, PaletteSettings(1), importance)
    assert_array_equal(palette.lut.reshape(-1), [0, 3])


def test_fast_mode_clusters_exactly_what_rounding_would_merge():
    weight = normal(32, 32) * np.float32(1e-4)
    exact = palettize(weight, PaletteSettings(4))
    fast = palettize(weight, PaletteSettings(4, rounding_precision=4))
    assert_array_equal(fast.lut, exact.lut)
    assert "clustered exactly" in fast.metrics.notes[0]


def test_fast_mode_is_nearly_exact_and_says_nothing_where_rounding_is_fine():
    weight = normal(64, 64)
    exact = palettize(weight, PaletteSettings(4))
    fast = palettize(weight, PaletteSettings(4, rounding_precision=4))
    assert exact.metrics.sse <= fast.metrics.sse <= exact.metrics.sse * 1.001
    assert fast.metrics.notes == ()


@pytest.mark.parametrize(
    ("weight", "settings", "error", "message"),
    [
        (normal(4, 6), PaletteSettings(4, group_size=3), DivisibilityError, "group_size 3"),
        (normal(4, 6), PaletteSettings(4, cluster_dim=3), DivisibilityError, "cluster_dim 3"),
        (normal(4), PaletteSettings(4, axis=1, group_size=1), WeightError, "no axis 1"),
        (np.float32(1), PaletteSettings(4), WeightError, r"shape \[\]"),
        (normal(0, 4), PaletteSettings(4), WeightError, r"shape \[0, 4\]"),
        (np.ones((2, 2), np.int32), PaletteSettings(4), WeightError, "int32"),
        (np.ones((2, 2), np.complex64), PaletteSettings(4), WeightError, "complex64"),
        (np.array([1, np.nan, np.inf], np.float32), PaletteSettings(4), NonFiniteError, r"\[1\]"),
        (
            np.array([[1, np.inf]], np.float32),
            PaletteSettings(4, per_channel_scale=True),
            NonFiniteError,
            r"inf at index \[0, 1\]",
        ),
        (
            np.array([[1], [np.nan]], ml_dtypes.bfloat16),
            PaletteSettings(4, cluster_dim=2),
            NonFiniteError,
            "1 of 2",
        ),
    ],
)
def test_bad_weights_are_named(weight, settings, error, message):
    with pytest.raises(error, match=message):
        palettize(weight, settings)


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (np.ones((4, 5)), r"\[4, 5\]"),
        (-np.ones((4, 6)), "not negative"),
        (np.full((4, 6), np.nan), "finite"),
    ],
)
def test_bad_sensitivities_are_named(importance, message):
    with pytest.raises(SensitivityError, match=message):
        palettize(normal(4, 6), PaletteSettings(4), importance)


def test_numpy_callers_never_pay_for_torch():
    program = (
        "import sys, numpy, kernels;"
        "w = numpy.ones((2, 2), 'f');"
        "kernels.reconstruct(kernels.palettize(w, kernels.PaletteSettings(1)));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


LARGE = {
    "float32": (np.float32, 3.4e38),
    "bfloat16": (ml_dtypes.bfloat16, 3.3e38),
    "float64": (np.float64, 1.7e308),
    "squares of float64": (np.float64, 1e160),
}


@pytest.mark.parametrize(("dtype", "magnitude"), LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("lut_dtype", [None, "int8", "float8_e4m3fn"])
@pytest.mark.parametrize("settings", [{}, {"group_size": 16}, {"cluster_dim": 2}])
def test_weights_that_differ_by_more_than_can_be_told_are_refused(
    dtype, magnitude, lut_dtype, settings
):
    weight = (np.random.default_rng(0).uniform(-1, 1, (64, 64)) * magnitude).astype(dtype)
    with pytest.raises(NonFiniteError, match="so large that their differences or squares overflow"):
        palettize(weight, PaletteSettings(n_bits=4, lut_dtype=lut_dtype, **settings))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_largest_weights_that_can_be_told_apart(dtype):
    weight = np.triu(np.full((16, 16), -np.finfo(np.float32).max, dtype), 1)
    assert_array_equal(reconstruct(palettize(weight, PaletteSettings(n_bits=1))), weight)
