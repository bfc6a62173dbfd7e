"""Tensors read by rows against the same tensors held whole, bit for bit; and in bounded memory."""

import tracemalloc
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palettery.kernels import PaletteSettings, can_stream, pack, palettize, palettize_rows
from palettery.kernels import streaming as by_rows
from palettery.kernels.errors import NonFiniteError, SensitivityError, WeightError
from palettery.kernels.scalar import cpu, large_groups
from tests.spanning import spanning

BFLOAT16 = ml_dtypes.bfloat16
DTYPES = [np.float16, BFLOAT16, np.float32]


@dataclass
class Held:
    """Rows of an array, and how they were asked for."""

    array: np.ndarray
    reads: list = None

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype

    def read(self, first, count):
        if self.reads is not None:
            self.reads.append((first, count))
        block = self.array[first : first + count].view()
        block.flags.writeable = False
        return block


@pytest.fixture
def small_blocks(monkeypatch):
    """Limits so low that small tensors take many blocks, pieces and passes."""
    monkeypatch.setattr(cpu, "MAX_SORTED_ELEMENTS", 4096)
    monkeypatch.setattr(cpu, "ROUND_ELEMENTS", 6000)
    monkeypatch.setattr(large_groups, "PIECE_ELEMENTS", 1500)
    monkeypatch.setattr(by_rows, "BLOCK_ELEMENTS", 3500)


def draws(dtype, shape=(301, 57), seed=0):
    values = np.random.default_rng(seed).normal(0, 0.05, shape)
    values[5] *= 20
    values[7] = 0
    return values.astype(dtype)


def assert_same(weight, settings, importance=None, sensitivity=None):
    whole = palettize(weight, settings, importance, threads=1)
    found = palettize_rows(Held(weight), settings, sensitivity, threads=2)
    assert found.metrics is None
    parts = list(found.packed())
    assert_array_equal(np.concatenate(parts), pack(whole.indices, settings.n_bits), strict=True)
    for name in ("lut", "lut_scale", "lut_zero_point", "per_channel_scale"):
        ours, theirs = getattr(found, name), getattr(whole, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_array_equal(ours, theirs, strict=True)
    assert (found.shape, found.dtype) == (whole.shape, whole.dtype)
    assert found.metrics.notes == whole.metrics.notes
    assert_array_equal(found.metrics.occupancy, whole.metrics.occupancy)
    assert found.metrics.max_error == whole.metrics.max_error
    spread, expected = found.metrics.distribution, whole.metrics.distribution
    assert spread.exponent == expected.exponent
    assert_array_equal(spread.weights, expected.weights)
    assert_array_equal(spread.reconstructed, expected.reconstructed)
    assert found.metrics.sse == pytest.approx(whole.metrics.sse, rel=1e-12)
    assert found.metrics.signal == pytest.approx(whole.metrics.signal, rel=1e-12)
    return parts, found.metrics, whole.metrics


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("dtype", "fast", "scaled", "lut_dtype", "weighted"),
    spanning(DTYPES, [False, True], [False, True], [None, "int8", "float8_e4m3fn"], [False, True]),
)
def test_one_palette(dtype, fast, scaled, lut_dtype, weighted):
    weight = draws(dtype)
    importance = np.random.default_rng(1).random(weight.shape) if weighted else None
    settings = PaletteSettings(
        4,
        per_channel_scale=scaled,
        rounding_precision=4 if fast else None,
        lut_dtype=lut_dtype,
    )
    assert can_stream(weight.shape, weight.dtype, settings)
    sensitivity = Held(importance) if weighted else None
    parts, found, whole = assert_same(weight, settings, importance, sensitivity)
    assert len(parts) > 3
    assert scaled or found.sse == whole.sse  # the pieces are the same


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_bits", [1, 2, 3, 6, 8])
def test_blocks_end_on_whole_bytes(dtype, n_bits):
    parts, *_ = assert_same(draws(dtype, (303, 51)), PaletteSettings(n_bits))
    assert len(parts) > 3


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("dtype", "scaled", "weighted", "shape"),
    spanning(DTYPES, [False, True], [False, True], [(601, 32), (300, 32, 3)]),
)
def test_groups_along_axis_1(dtype, scaled, weighted, shape, monkeypatch):
    monkeypatch.setattr(by_rows, "TABLES_BYTES", 1)  # each group has its pass
    weight = draws(dtype, shape)
    importance = np.random.default_rng(1).random(shape).astype(np.float32) if weighted else None
    settings = PaletteSettings(3, axis=1, group_size=16, per_channel_scale=scaled)
    assert can_stream(shape, dtype, settings)
    assert_same(weight, settings, importance, Held(importance) if weighted else None)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_sensitivities_of_nothing_count_for_nothing(dtype):
    weight = draws(dtype)
    assert_same(weight, PaletteSettings(4), np.zeros(weight.shape), Held(np.zeros(weight.shape)))


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        (np.float64, PaletteSettings(4)),
        (np.float32, PaletteSettings(4, cluster_dim=2)),
        (np.float16, PaletteSettings(4, group_size=4)),
        (np.float16, PaletteSettings(4, axis=1, group_size=4)),
        (np.float32, PaletteSettings(4)),
    ],
    ids=str,
)
def test_what_cannot_be_read_in_blocks_is_read_whole(dtype, settings):
    weight, reads = draws(dtype, (64, 48)), []
    assert not can_stream(weight.shape, dtype, settings)
    found = palettize_rows(Held(weight, reads), settings)
    whole = palettize(weight, settings)
    assert_array_equal(np.concatenate(list(found.packed())), pack(whole.indices, 4))
    assert_array_equal(found.lut, whole.lut)
    assert found.metrics.sse == whole.metrics.sse
    assert reads == [(0, 64)]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_what_is_not_finite_is_named(dtype, scaled, bad):
    weight = draws(dtype)
    weight[200, 3] = weight[250, 0] = bad
    settings = PaletteSettings(4, per_channel_scale=scaled)
    message = rf"2 of {weight.size} weights .* first is {bad} at index \[200, 3\]"
    with pytest.raises(NonFiniteError, match=message):
        palettize_rows(Held(weight), settings)
    with pytest.raises(NonFiniteError, match=message):
        palettize(weight, settings)


@pytest.mark.usefixtures("small_blocks")
def test_what_the_rows_lack_is_named():
    weight = draws(np.float32)
    with pytest.raises(SensitivityError, match="not negative"):
        palettize_rows(Held(weight), PaletteSettings(4), Held(-np.ones(weight.shape)))
    with pytest.raises(SensitivityError, match=r"shape \[\d+, 56\]"):
        palettize_rows(Held(weight), PaletteSettings(4), Held(np.ones((301, 56))))

    class Short(Held):
        def read(self, first, count):
            return super().read(first, min(count, self.shape[0] - first - 1))

    with pytest.raises(WeightError, match=r"are float32 .* expected"):
        palettize_rows(Short(weight), PaletteSettings(4))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_check_ends_any_pass(dtype):
    class Stopped(Exception):
        pass

    calls = []
    settings = PaletteSettings(4, per_channel_scale=True)

    def run(check):
        found = palettize_rows(Held(draws(dtype)), settings, check_cancelled=check)
        assert found.metrics is None
        list(found.packed())

    run(lambda: calls.append(None))
    for last in range(1, len(calls), 7):
        left = iter(range(last))

        def stop(left=left):
            if next(left, None) is None:
                raise Stopped

        with pytest.raises(Stopped):
            run(stop)


@dataclass
class Generated:
    """Rows that are drawn as they are read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, first, count):
        rows = np.arange(first, first + count, dtype=np.float32)[:, None]
        angles = rows * np.float32(0.7071) + np.arange(self.shape[1], dtype=np.float32)
        np.sin(angles, out=angles)
        angles *= np.float32(0.05)
        return angles.astype(self.dtype)


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        pytest.param(np.float32, PaletteSettings(4), marks=pytest.mark.heavy),
        (np.float32, PaletteSettings(8, per_channel_scale=True, rounding_precision=4)),
        pytest.param(np.float16, PaletteSettings(4, rounding_precision=4), marks=pytest.mark.heavy),
        (BFLOAT16, PaletteSettings(4, axis=1, group_size=512)),
    ],
    ids=str,
)
def test_memory_is_bounded_by_blocks_and_tables(dtype, settings):
    dtype = np.dtype(dtype)
    rows = Generated(((128 << 20) // (dtype.itemsize * 4096), 4096), dtype)
    palettize_rows(Generated((256, 4096), dtype), settings)
    tracemalloc.start()
    try:
        found = palettize_rows(rows, settings)
        size = sum(part.size for part in found.packed())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == rows.shape[0] * 4096 * settings.n_bits // 8
    assert 0 < found.metrics.sse < found.metrics.signal
    assert peak < 100 << 20
