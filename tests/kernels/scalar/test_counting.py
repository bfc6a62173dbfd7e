"""Two-byte weights by their bits, against numpy's sort and against the path that sorts."""

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palettery.kernels import PaletteSettings, palettize, reconstruct
from palettery.kernels.errors import NonFiniteError
from palettery.kernels.float16 import CODES, code_values, infinity_code, upcast_float16
from palettery.kernels.scalar import palettize as scalar
from palettery.kernels.scalar.counting import (
    MIN_COUNTED_ELEMENTS,
    add_masses,
    count_codes,
    distinct_points,
)
from palettery.kernels.scalar.scratch_buffers import ScratchBuffers

DTYPES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


def draws(dtype, n=9000, seed=0):
    values = np.random.default_rng(seed).normal(0, 0.05, n)
    values[:40] = np.tile([0.0, -0.0], 20)
    values[40:44] = [3e4, -3e4, 6e-8, -6e-8]
    return values.astype(dtype)


def counted(values, mass=None):
    counts = np.zeros(CODES, np.uint32)
    count_codes(values.view(np.uint16), counts)
    masses = np.zeros(0 if mass is None else CODES)
    if mass is not None:
        add_masses(values.view(np.uint16), mass, masses)
    results = [
        part.copy() for part in distinct_points(counts, masses, values.dtype, ScratchBuffers())
    ]
    assert not counts.any()
    return results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_pattern_widens_as_numpy_does(dtype):
    values = np.arange(CODES, dtype=np.uint16).view(dtype)
    assert_array_equal(upcast_float16(values), values.astype(np.float32), strict=True)
    assert_array_equal(np.signbit(upcast_float16(values)), np.signbit(values))
    assert not np.isfinite(code_values(dtype)[infinity_code(dtype)])
    assert np.isfinite(code_values(dtype)[infinity_code(dtype) - 1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_distinct_values_are_those_of_numpy(dtype):
    values = draws(dtype)
    expected, times = np.unique(values.astype(np.float32), return_counts=True)
    points, masses, codes = counted(values)
    assert_array_equal(points, expected)
    assert_array_equal(masses, times)
    assert_array_equal(codes.view(dtype).astype(np.float32), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_without_mass_are_left_out(dtype):
    values = draws(dtype)
    mass = np.random.default_rng(1).random(values.size)
    mass[values.astype(np.float32) > 0.02] = 0
    points, masses, _ = counted(values, mass)
    expected, rank = np.unique(values.astype(np.float32), return_inverse=True)
    totals = np.bincount(rank, mass)
    assert_array_equal(points, expected[totals > 0])
    np.testing.assert_allclose(masses, totals[totals > 0] / totals.max(), rtol=1e-12)
    alike, times, _ = counted(values, np.zeros(values.size))
    assert_array_equal(alike, expected)
    assert times.sum() == values.size


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_is_found_even_without_mass(dtype, bad):
    values = np.append(draws(dtype), np.array([bad], dtype))
    with pytest.raises(NonFiniteError):
        counted(values)
    with pytest.raises(NonFiniteError):
        counted(values, np.append(np.ones(values.size - 1), 0.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n_bits", [1, 4, 8])
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_error_is_that_of_the_path_that_sorts(dtype, n_bits, fast, weighted, monkeypatch):
    weight = draws(dtype, 3 * MIN_COUNTED_ELEMENTS).reshape(6, -1)
    importance = np.random.default_rng(2).random(weight.shape) if weighted else None
    settings = PaletteSettings(n_bits, group_size=2, rounding_precision=4 if fast else None)
    by_code = palettize(weight, settings, importance)
    monkeypatch.setattr(scalar, "MIN_COUNTED_ELEMENTS", weight.size + 1)
    by_value = palettize(weight, settings, importance)
    weights = 1 if importance is None else importance
    ours, theirs = (
        float((weights * (reconstruct(result).astype(np.float64) - weight) ** 2).sum())
        for result in (by_code, by_value)
    )
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert by_code.metrics.notes == by_value.metrics.notes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_every_weight_has_its_nearest_entry(dtype, axis):
    weight = draws(dtype, 4 * MIN_COUNTED_ELEMENTS).reshape(MIN_COUNTED_ELEMENTS // 4, 16)
    palette = palettize(weight, PaletteSettings(3, axis=axis, group_size=weight.shape[axis] // 2))
    metrics, dense = palette.metrics, reconstruct(palette)
    entries = palette.lut.reshape(2, 8).astype(np.float64)
    halves = zip(np.split(weight, 2, axis), np.split(palette.indices, 2, axis), strict=True)
    for group, (values, cells) in enumerate(halves):
        distance = np.abs(values.astype(np.float64)[..., None] - entries[group])
        chosen = np.take_along_axis(distance, cells[..., None].astype(int), -1)[..., 0]
        assert_array_equal(chosen, distance.min(axis=-1))
        assert_array_equal(metrics.occupancy[group], np.bincount(cells.reshape(-1), minlength=8))
        assert metrics.group_sse[group] == pytest.approx((chosen**2).sum(), rel=1e-12)
    error = dense.astype(np.float64) - weight.astype(np.float64)
    assert metrics.max_error == np.abs(error).max()
    assert metrics.signal == pytest.approx((weight.astype(np.float64) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_threads_do_not_change_a_large_group(weighted, monkeypatch):
    monkeypatch.setattr(scalar.cpu, "MAX_SORTED_ELEMENTS", 1000)
    monkeypatch.setattr("palettery.kernels.scalar.large_groups.PIECE_ELEMENTS", 700)
    weight = draws(np.float16, 1 << 14).reshape(64, -1)
    importance = np.random.default_rng(2).random(weight.shape) if weighted else None
    one, three = (palettize(weight, PaletteSettings(4), importance, threads=t) for t in (1, 3))
    assert_array_equal(one.lut, three.lut)
    assert_array_equal(one.indices, three.indices)
    assert one.metrics.sse == three.metrics.sse
    monkeypatch.undo()
    whole = palettize(weight, PaletteSettings(4), importance)
    assert one.metrics.sse == pytest.approx(whole.metrics.sse, rel=1e-9)
