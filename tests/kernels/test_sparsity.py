"""Sparse weights: zeros stay zero, and the palette is the best of the others."""

from itertools import product

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from palettery.kernels import (
    PaletteSettings,
    pack,
    pack_mask,
    pad_groups,
    palettize,
    palettize_rows,
    reconstruct,
    stored_per_group,
    unpack_mask,
)
from palettery.kernels import streaming as by_rows
from palettery.kernels.arrays import upcast
from palettery.kernels.errors import DivisibilityError, SettingsError
from palettery.kernels.palettize import palettize_on
from palettery.kernels.scalar import cpu, large_groups
from tests.spanning import spanning

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]


def sparse(shape, dtype=np.float32, share=0.6, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 0.02, shape) * (rng.random(shape) >= share)
    return weight.astype(dtype)


def squared_error(weight, dense):
    return float((np.subtract(upcast(weight), upcast(dense), dtype=np.float64) ** 2).sum())


def test_by_hand():
    weight = np.array([[0, 1, -0.0, 5], [1, 0, 0, 7]], np.float32)
    palette = palettize(weight, PaletteSettings(1, sparsity_threshold=0.5))
    assert_array_equal(palette.mask, [[0, 1, 0, 1], [1, 0, 0, 1]])
    assert_array_equal(palette.lut.reshape(-1), [1, 6])
    assert_array_equal(palette.indices, [0, 1, 0, 1])
    assert_array_equal(reconstruct(palette), [[0, 1, 0, 6], [1, 0, 0, 6]])
    assert palette.metrics.sse == 2
    assert palette.metrics.signal == 76
    assert_array_equal(palette.metrics.occupancy, [[2, 2]])


def test_vectors_by_hand():
    """Two consecutive stored weights each, across rows; the smallest is dropped for a whole one."""
    weight = np.array([[1, 0, 2], [0, 3, 0], [0.5, 0, 4]], np.float32)
    settings = PaletteSettings(1, cluster_dim=2, sparsity_threshold=0)
    palette = palettize(weight, settings)
    assert_array_equal(palette.indices.shape, (2,))
    assert_array_equal(reconstruct(palette), [[1, 0, 2], [0, 3, 0], [0, 0, 4]])
    assert "1 nonzero weights became zeros" in palette.metrics.notes[0]


@pytest.mark.parametrize(
    ("zeros", "threshold", "is_sparse"),
    [(0, 0.0, False), (1, 0.0, True), (8, 0.5, True), (7, 0.5, False), (15, 1.0, False)],
)
def test_a_weight_is_sparse_from_a_share_of_zeros(zeros, threshold, is_sparse):
    weight = np.arange(1, 17, dtype=np.float32).reshape(4, 4)
    weight.reshape(-1)[:zeros] = 0
    palette = palettize(weight, PaletteSettings(2, sparsity_threshold=threshold))
    assert (palette.mask is not None) is is_sparse


@pytest.mark.parametrize(
    ("dtype", "axis", "group_size", "scaled", "decimals", "weighted"),
    spanning(DTYPES, [0, 1], [None, 4], [False, True], [None, 4], [False, True]),
)
def test_zeros_stay_and_the_rest_is_as_a_weight_of_its_own(
    dtype, axis, group_size, scaled, decimals, weighted
):
    weight = sparse((24, 60), dtype)
    weight[4:8] = 0  # a whole group, on axis 0
    importance = np.random.default_rng(1).random(weight.shape) if weighted else None
    settings = PaletteSettings(
        3,
        axis=axis,
        group_size=group_size,
        per_channel_scale=scaled,
        rounding_precision=decimals,
        sparsity_threshold=0.5,
    )
    palette = palettize(weight, settings, importance)
    dense = reconstruct(palette)
    assert not upcast(dense)[weight == 0].any()
    assert palette.indices.size == np.count_nonzero(palette.mask) == palette.metrics.occupancy.sum()
    np.testing.assert_allclose(squared_error(weight, dense), palette.metrics.sse, rtol=1e-6)
    if not scaled:
        first = [slice(None)] * 2
        first[axis] = slice(group_size)
        stored = weight[tuple(first)] != 0
        own = None if importance is None else importance[tuple(first)][stored][None]
        plain = PaletteSettings(3, rounding_precision=decimals)
        other = palettize(weight[tuple(first)][stored][None], plain, own)
        assert_array_equal(palette.lut.reshape(-1, 8)[0], other.lut.reshape(-1))


@pytest.mark.parametrize(("dtype", "axis"), list(product(DTYPES[:3], [0, 1])))
def test_on_a_device(dtype, axis):
    weight = sparse((32, 64), dtype)
    settings = PaletteSettings(2, axis=axis, group_size=8, sparsity_threshold=0.5)
    ours, other = palettize(weight, settings), palettize_on(torch.device("cpu"), weight, settings)
    assert_array_equal(ours.mask, other.mask)
    np.testing.assert_allclose(other.metrics.sse, ours.metrics.sse, rtol=1e-6)
    assert_array_equal(other.metrics.occupancy.sum(1), ours.metrics.occupancy.sum(1))
    np.testing.assert_allclose(
        squared_error(weight, reconstruct(other)), other.metrics.sse, rtol=1e-6
    )


def test_all_zeros_are_a_constant():
    palette = palettize(np.zeros((4, 8), np.float32), PaletteSettings(4, sparsity_threshold=1))
    assert palette.indices.size == 0
    assert not reconstruct(palette).any()
    assert "all of its weights are zero" in palette.metrics.notes[0]


def test_fast_mode_keeps_weights_that_it_would_round_to_zero():
    weight = sparse((32, 64)) * np.float32(1e-3 / 2)
    fast = palettize(weight, PaletteSettings(2, rounding_precision=4, sparsity_threshold=0.5))
    exact = palettize(weight, PaletteSettings(2, sparsity_threshold=0.5))
    assert (reconstruct(fast) != 0).sum() == (weight != 0).sum()
    assert fast.metrics.sse <= exact.metrics.sse * 1.01


def test_a_zero_point_leaves_zeros_alone():
    weight = np.abs(sparse((16, 32))) + np.float32(0)
    settings = PaletteSettings(
        4, lut_dtype="uint8", lut_scheme="asymmetric", sparsity_threshold=0.5
    )
    assert not reconstruct(palettize(weight, settings))[weight == 0].any()


def test_vectors_of_groups_on_axis_1_are_refused():
    with pytest.raises(SettingsError, match="axis is 1; it must be 0 when sparsity_threshold"):
        PaletteSettings(2, axis=1, group_size=4, cluster_dim=2, sparsity_threshold=0.5)


def test_rows_need_not_divide_unless_the_weight_is_dense():
    settings = PaletteSettings(2, cluster_dim=2, sparsity_threshold=0.5)
    assert palettize(sparse((15, 20)), settings).mask is not None
    with pytest.raises(DivisibilityError, match="cluster_dim 2 does not divide the 15 rows"):
        palettize(sparse((15, 20), share=0), settings)


class Rows:
    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self, first, count):
        return self.array[first : first + count]


@pytest.mark.parametrize(
    ("dtype", "layout", "n_bits", "scaled"),
    spanning(DTYPES[:3], [(0, None), (1, 5)], [1, 3, 4, 6], [False, True]),
)
def test_blocks_of_rows_give_the_same_bytes(monkeypatch, dtype, layout, n_bits, scaled):
    monkeypatch.setattr(cpu, "MAX_SORTED_ELEMENTS", 1000)
    monkeypatch.setattr(large_groups, "PIECE_ELEMENTS", 350)
    monkeypatch.setattr(by_rows, "BLOCK_ELEMENTS", 700)
    weight = sparse((500, 35), dtype)
    settings = PaletteSettings(
        n_bits,
        axis=layout[0],
        group_size=layout[1],
        per_channel_scale=scaled,
        sparsity_threshold=0.5,
    )
    whole, rows = palettize(weight, settings), palettize_rows(Rows(weight), settings)
    assert rows.num_stored == whole.indices.size
    assert_array_equal(rows.lut, whole.lut)
    assert_array_equal(np.concatenate(list(rows.masks())), pack_mask(whole.mask))
    assert_array_equal(np.concatenate(list(rows.packed())), pack(whole.indices, n_bits))
    np.testing.assert_allclose(rows.metrics.sse, whole.metrics.sse, rtol=1e-9)


def test_masks_are_packed_and_unpacked():
    mask = np.random.default_rng(0).random((5, 7)) < 0.5
    assert_array_equal(unpack_mask(pack_mask(mask), mask.shape), mask)


@pytest.mark.parametrize(("n_bits", "lut_dtype"), [(1, None), (2, None), (4, None), (2, "int8")])
def test_padded_groups_have_equal_numbers_and_exact_zeros(n_bits, lut_dtype):
    weight = sparse((16, 40))
    weight[4:8, :35] = 0
    weight[12:] = sparse((4, 40), share=0.2, seed=1)  # the fullest group
    weight[8:12] = np.where(weight[8:12] != 0, 0.5, 0)  # fewer values than entries
    settings = PaletteSettings(n_bits, group_size=4, lut_dtype=lut_dtype, sparsity_threshold=0.1)
    palette = palettize(weight, settings)
    padded = pad_groups(palette)
    counts = stored_per_group(palette.mask, palette.lut.shape)
    assert set(stored_per_group(padded.mask, padded.lut.shape)) == {counts.max()}
    dense = reconstruct(padded)
    assert not dense[weight == 0].any()
    assert_array_equal(dense[8:], reconstruct(palette)[8:])
    stored, given = weight[:4][weight[:4] != 0], dense[:4][weight[:4] != 0]
    if n_bits == 1:  # the one entry that is left is the mean of the group
        np.testing.assert_allclose(given, stored.mean(), rtol=1e-5)
    elif lut_dtype is None:
        assert len(np.unique(given)) == 2**n_bits - 1
        assert squared_error(stored, given) < stored.var() * stored.size * 2.0 ** (-2 * n_bits + 3)
