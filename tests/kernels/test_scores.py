"""Scores of all choices at once against palettizing each choice: equal to the bit."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose

from palettery.kernels import (
    PaletteSettings,
    pack,
    pack_mask,
    palette_scores,
    palette_scores_rows,
    palettize,
    reconstruct,
)
from palettery.kernels import scores as scores_module
from palettery.kernels import streaming as by_rows
from palettery.kernels.errors import DivisibilityError, NonFiniteError, SettingsError
from palettery.kernels.metrics import weighted_errors
from palettery.kernels.scalar import cpu, large_groups
from tests.examples import examples

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)
LUTS = (None, None, "int8", "uint8", "float8_e4m3fn")


class Rows:
    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self, first, count):
        return self.array[first : first + count]


@pytest.fixture
def small_limits(monkeypatch):
    """Limits so low that small tensors take the ways of large ones."""
    monkeypatch.setattr(cpu, "MAX_SORTED_ELEMENTS", 4096)
    monkeypatch.setattr(cpu, "ROUND_ELEMENTS", 6000)
    monkeypatch.setattr(large_groups, "PIECE_ELEMENTS", 1500)
    monkeypatch.setattr(by_rows, "BLOCK_ELEMENTS", 3500)
    monkeypatch.setattr(scores_module, "BLOCK_ELEMENTS", 3500)


def expected(weight, settings, sensitivity):
    """Error and bytes of one choice, the long way."""
    palette = palettize(weight, settings, sensitivity)
    arrays = (
        pack(palette.indices, settings.n_bits),
        palette.lut,
        palette.lut_scale,
        palette.lut_zero_point,
        palette.per_channel_scale,
        None if palette.mask is None else pack_mask(palette.mask),
    )
    size_bytes = sum(array.nbytes for array in arrays if array is not None)
    error, signal = palette.metrics.sse, palette.metrics.signal
    if sensitivity is not None:
        error, signal = weighted_errors(weight, reconstruct(palette), sensitivity)
    return error, signal, size_bytes


def assert_is(score, signal, reference):
    """Errors are equal to the bit; the signal adds up in the order of one of the group sizes."""
    error, energy, size_bytes = reference
    assert (score.error, score.size_bytes) == (error, size_bytes)
    assert_allclose(signal, energy, rtol=1e-13)


def draw(rng):
    """A weight, settings and sensitivities or None, all at random."""
    rows, columns = (int(size) * 4 for size in rng.integers(1, 12, 2))
    shape = (rows, columns, 3) if rng.random() < 0.2 else (rows, columns)
    spread = 10.0 ** rng.uniform(-3, 1)
    values = rng.normal(0, spread, shape)
    if rng.random() < 0.2:
        values = np.round(values / spread) * spread  # repeated values
    if rng.random() < 0.2:
        values = rng.standard_t(2, shape) * spread
    settings = PaletteSettings(
        1,
        axis=int(rng.integers(2)),
        per_channel_scale=bool(rng.random() < 0.3),
        rounding_precision=rng.choice([None, 4]),
        lut_dtype=rng.choice(LUTS),
    )
    weight = values.astype(DTYPES[rng.integers(len(DTYPES))])
    importance = rng.exponential(1, shape).astype(np.float32) if rng.random() < 0.4 else None
    return weight, settings, importance


def zeroed(rng, weight):
    """A weight with about six zeros in ten, and a whole group of them on axis 0."""
    zeros = rng.random(weight.shape) < 0.6
    zeros[:4] = True
    return np.where(zeros, weight.dtype.type(0), weight)


def assert_equal_to_palettize(seed, *, sparse=False):
    rng = np.random.default_rng(seed)
    weight, settings, importance = draw(rng)
    if sparse:
        weight = zeroed(rng, weight)
        settings = replace(settings, sparsity_threshold=0.3)
    n_bits = tuple(int(bits) for bits in rng.permutation([1, 2, 3, 4, 6, 8])[: rng.integers(1, 7)])
    found = palette_scores(weight, settings, n_bits, (None, 4), importance)
    assert [(each.group_size, each.n_bits) for each in found.choices] == [
        (size, bits) for size in (None, 4) for bits in n_bits
    ]
    for score in found.choices:
        choice = replace(settings, n_bits=score.n_bits, group_size=score.group_size)
        assert_is(score, found.signal, expected(weight, choice, importance))


@pytest.mark.parametrize("seed", range(40))
def test_scores_are_those_of_palettize(seed):
    assert_equal_to_palettize(seed)


@pytest.mark.parametrize("seed", range(40))
def test_scores_of_sparse_weights_are_those_of_palettize(seed):
    assert_equal_to_palettize(seed, sparse=True)


@pytest.mark.parametrize("share", [0, 1])
def test_scores_of_weights_without_zeros_and_of_all_zeros(share):
    weight = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32) * (1 - share)
    settings = PaletteSettings(1, sparsity_threshold=0.5)
    found = palette_scores(weight, settings, (1, 3), (None, 4))
    for score in found.choices:
        choice = replace(settings, n_bits=score.n_bits, group_size=score.group_size)
        assert (palettize(weight, choice).mask is not None) is bool(share)
        assert_is(score, found.signal, expected(weight, choice, None))


@pytest.mark.heavy
@pytest.mark.parametrize("block", range(5))
def test_more_scores_are_those_of_palettize(block):
    for seed in range(40 + block, 40 + examples(150), 5):
        assert_equal_to_palettize(seed, sparse=seed % 5 == 4)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_scores_of_large_groups_are_those_of_palettize(seed, sparse):
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 0.05, (192, 96)).astype(DTYPES[seed % 3])
    settings = PaletteSettings(1, axis=seed % 2, rounding_precision=(None, 4)[seed // 2 % 2])
    if sparse:
        weight, settings = zeroed(rng, weight), replace(settings, sparsity_threshold=0.5)
    importance = rng.exponential(1, weight.shape) if seed % 4 == 3 else None
    found = palette_scores(weight, settings, (1, 4, 6, 8), (None, 48), importance)
    for score in found.choices:
        choice = replace(settings, n_bits=score.n_bits, group_size=score.group_size)
        assert_is(score, found.signal, expected(weight, choice, importance))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_scores_of_vectors_are_those_of_palettize(scaled, sparse):
    weight = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
    importance = np.random.default_rng(1).exponential(1, weight.shape)
    settings = PaletteSettings(1, cluster_dim=2, per_channel_scale=scaled)
    if sparse:
        weight = zeroed(np.random.default_rng(2), weight)
        settings = replace(settings, sparsity_threshold=0.5)
    for sensitivity in (None, importance):
        found = palette_scores(weight, settings, (1, 3), (None, 8), sensitivity)
        for score in found.choices:
            choice = replace(settings, n_bits=score.n_bits, group_size=score.group_size)
            assert_is(score, found.signal, expected(weight, choice, sensitivity))


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("seed", range(16))
def test_tensors_read_in_blocks_have_the_scores_of_tensors_in_memory(seed, sparse):
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 0.05, (192, 96)).astype(DTYPES[seed % 4])
    settings = PaletteSettings(1, axis=seed // 2 % 2, per_channel_scale=seed % 5 == 4)
    if sparse:
        weight, settings = zeroed(rng, weight), replace(settings, sparsity_threshold=0.5)
    importance = rng.exponential(1, weight.shape).astype(np.float32) if seed % 3 == 2 else None
    choices = (2, 3, 6), (None, 16, 48)
    whole = palette_scores(weight, settings, *choices, importance)
    of_rows = None if importance is None else Rows(importance)
    rows = palette_scores_rows(Rows(weight), settings, *choices, of_rows)
    assert [each.size_bytes for each in rows.choices] == [each.size_bytes for each in whole.choices]
    assert_allclose(
        [rows.signal, *(each.error for each in rows.choices)],
        [whole.signal, *(each.error for each in whole.choices)],
        rtol=1e-12,
    )


def of_rows(weight, *rest):
    return palette_scores_rows(Rows(weight), *rest)


@pytest.mark.parametrize("scores", [palette_scores, of_rows])
def test_bad_input(scores):
    weight = np.ones((8, 8), np.float32)
    with pytest.raises(SettingsError, match=r"n_bits is \(\).*at least one"):
        scores(weight, PaletteSettings(1), ())
    with pytest.raises(DivisibilityError, match="group_size 3"):
        scores(weight, PaletteSettings(1), (1,), (3,))
    weight[3, 4] = np.nan
    with pytest.raises(NonFiniteError, match=r"1 of 64 .* \[3, 4\]"):
        scores(weight, PaletteSettings(1), (1,), (None, 2))
