"""Compilation of the scalar kernels before the first job."""

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.float16 import BFLOAT16
from palettery.kernels.metrics import errors
from palettery.kernels.packing import pack, unpack
from palettery.kernels.palette import reconstruct
from palettery.kernels.palettize import palettize
from palettery.kernels.scalar.cpu import MAX_SORTED_ELEMENTS
from palettery.kernels.settings import N_BITS, PaletteSettings

_DTYPES = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32))


def warm_up() -> None:
    """Load the kernels of scalar palettes from the disk cache, or compile them, by using each once.

    Afterwards, scalar jobs with float16, bfloat16 and float32 weights compile nothing. This takes
    seconds with a filled cache, and about a minute with an empty one.
    """
    small, medium, large = _weights_by_size()
    for dtype, scaled in product(_DTYPES, (False, True)):
        for weighted, decimals in product((False, True), (None, 4)):
            settings = PaletteSettings(4, per_channel_scale=scaled, rounding_precision=decimals)
            for weight in (small, medium):
                _run_kernels(weight.astype(dtype), settings, weighted=weighted)
        # At this size there are no special kernels for sensitivities and rounding.
        _run_kernels(
            large.astype(dtype), PaletteSettings(4, per_channel_scale=scaled), weighted=False
        )
    for dtype in _DTYPES:
        sparse = np.maximum(medium, 0).astype(dtype)
        for decimals in (None, 4):
            settings = PaletteSettings(4, rounding_precision=decimals, sparsity_threshold=0)
            _run_kernels(sparse, settings, weighted=decimals is None)
    column = np.arange(large.shape[1])
    small = np.broadcast_to(column / column.size, large.shape)
    skewed = np.where(column % 2, 1.0, 1000.0) + large
    for dtype in _DTYPES[::2]:
        for weight, scaled in product((small.astype(dtype), skewed.astype(dtype)), (False, True)):
            _run_kernels(weight, PaletteSettings(4, per_channel_scale=scaled), weighted=False)
    _run_kernels(1000 + medium, PaletteSettings(4, rounding_precision=4), weighted=False)
    _run_kernels(
        np.maximum(medium, 0), PaletteSettings(4, 1, 2, sparsity_threshold=0), weighted=False
    )
    for axis in (0, 1):  # the kernels of error feedback are the same for all dtypes
        palettize(medium, PaletteSettings(1, axis, 2), second_moment=np.eye(medium.shape[1]))
    settings = PaletteSettings(1, sparsity_threshold=0)
    palettize(np.maximum(medium, 0), settings, second_moment=np.eye(medium.shape[1]))
    for n_bits in N_BITS:
        indices = np.zeros((3, 5), np.uint8)
        unpack(pack(indices, n_bits), n_bits, indices.shape)


def _weights_by_size() -> tuple[NDArray[np.float32], ...]:
    """Return a small, a medium and a large weight: each size has kernels of its own."""
    normal = np.random.default_rng(0).normal(0, 0.02, MAX_SORTED_ELEMENTS + (1 << 12))
    values = normal.astype(np.float32).reshape(-1, 64)
    return values[:4], values[: 1 << 7], values


def _run_kernels(weight: NDArray[Any], settings: PaletteSettings, *, weighted: bool) -> None:
    importance = np.ones(weight.shape, np.float32) if weighted else None
    errors(weight, reconstruct(palettize(weight, settings, importance)))
