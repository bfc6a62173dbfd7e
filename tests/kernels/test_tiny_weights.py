"""Weights too small for the scale of a quantized palette: a note says when they became zeros."""

from itertools import product

import ml_dtypes
import numpy as np
import pytest

from palettery.kernels import PaletteSettings, palettize, palettize_rows, reconstruct
from palettery.kernels.scalar import cpu
from tests.kernels.test_repeated_values import Rows
from tests.spanning import first_fast

TINY = {
    "float16": (np.dtype(np.float16), 3e-7),
    "float32": (np.dtype(np.float32), 1e-40),
    "float64, normal": (np.dtype(np.float64), 1e-30),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), 1e-40),
    "float32, normal": (np.dtype(np.float32), 1e-30),
    "float64": (np.dtype(np.float64), 1e-300),
}
LUTS = [
    {"lut_dtype": None},
    *({"lut_dtype": dtype} for dtype in ("int8", "uint8", "float8_e4m3fn", "float8_e5m2")),
    {"lut_dtype": "int8", "lut_scheme": "asymmetric"},
    {"lut_dtype": "int8", "lut_scheme": "symmetric_with_clipping"},
    {"lut_dtype": "uint8", "lut_scheme": "asymmetric"},
    {"lut_dtype": "float8_e4m3fn", "lut_scale_dtype": "float8_e8m0fnu"},
    {"lut_dtype": "float8_e5m2", "lut_scale_dtype": "float8_e8m0fnu"},
]


def tiny(dtype, size, shape=(8, 64)):
    return (np.random.default_rng(0).normal(size=shape) * size).astype(dtype)


def vanishing(palette):
    return [note for note in palette.metrics.notes if "became zeros" in note]


@pytest.mark.parametrize("kind", first_fast(TINY, 3))
def test_what_becomes_zeros_is_noted_and_nothing_else(kind):
    weight = tiny(*TINY[kind])
    for lut, dim, scaled in product(LUTS, (1, 2), (False, True)):
        settings = PaletteSettings(
            4, group_size=4, cluster_dim=dim, per_channel_scale=scaled, **lut
        )
        palette = palettize(weight, settings)
        groups = np.split(reconstruct(palette).astype(np.float64), 2)
        lost = sum(not group.any() for group in groups)
        assert bool(vanishing(palette)) == bool(lost), (lut, dim, scaled)
        if lut["lut_dtype"] is None:
            assert not lost


@pytest.mark.parametrize("lut", LUTS[1:5], ids=str)
def test_groups_that_become_zeros_are_counted(lut):
    weight = tiny(np.float32, 1e-40)
    weight[4:] = np.random.default_rng(1).normal(size=(4, 64))
    (note,) = vanishing(palettize(weight, PaletteSettings(4, group_size=4, **lut)))
    assert note.startswith("the palettes of 1 of 2 groups became zeros")
    assert "leave lut_qspec out" in note


@pytest.mark.parametrize("lut", LUTS, ids=str)
def test_zeros_and_usual_weights_are_no_note(lut):
    for weight in (np.zeros((8, 64), np.float32), tiny(np.float32, 0.02), tiny(np.float16, 1e-3)):
        assert not vanishing(palettize(weight, PaletteSettings(4, group_size=4, **lut)))


def test_a_tensor_that_is_streamed_has_the_note(monkeypatch):
    monkeypatch.setattr(cpu, "MAX_SORTED_ELEMENTS", 0)
    palette = palettize_rows(Rows(tiny(np.float32, 1e-40)), PaletteSettings(4, lut_dtype="int8"))
    assert list(palette.packed())
    assert vanishing(palette)
