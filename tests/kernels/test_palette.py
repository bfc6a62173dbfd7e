"""Palettes decoded by hand."""

import numpy as np
from numpy.testing import assert_array_equal

from palettery.kernels import Palette, reconstruct


def test_a_palette_of_stored_parts_reconstructs():
    palette = Palette(
        indices=np.array([[0, 1], [1, 1], [0, 0], [1, 0]], np.uint8),
        lut=np.array([0.5, -1, 2, 4], np.float32).reshape(2, 1, 2, 1),
        per_channel_scale=np.array([[1], [2], [1], [10]], np.float32),
        shape=(4, 2),
        dtype=np.dtype(np.float32),
    )
    assert_array_equal(reconstruct(palette), [[0.5, -1], [-2, -2], [2, 2], [40, 20]])


def test_quantized_entries_are_dequantized():
    palette = Palette(
        indices=np.array([0, 1], np.uint8),
        lut=np.array([130, 126], np.uint8).reshape(1, 2, 1),
        lut_scale=np.full((1, 1, 1), 0.25, np.float32),
        lut_zero_point=np.full((1, 1, 1), 128, np.uint8),
        shape=(2,),
        dtype=np.dtype(np.float16),
    )
    assert_array_equal(reconstruct(palette), np.array([0.5, -0.5], np.float16))
