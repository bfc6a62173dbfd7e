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
from palettery.kernels.scalar.cpu import LARGEST_SORTED
from palettery.kernels.settings import N_BITS, PaletteSettings

_DTYPES = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32))


def warm_up() -> None:
    """Load the kernels of scalar palettes from the disk cache, or compile them, by using each once.

    Afterwards, scalar jobs with float16, bfloat16 and float32 weights compile nothing. This takes
    seconds with a filled cache, and about a minute with an empty one.
    """
    few, many, too_many = _weights_of_each_size()
    for dtype, scaled in product(_DTYPES, (False, True)):
        for weighted, decimals in product((False, True), (None, 4)):
            settings = PaletteSettings(4, per_channel_scale=scaled, rounding_precision=decimals)
            for weight in (few, many):
                _use(weight.astype(dtype), settings, weighted=weighted)
        # Sensitivities and rounding have no kernels of their own at this size.
        _use(too_many.astype(dtype), PaletteSettings(4, per_channel_scale=scaled), weighted=False)
    column = np.arange(too_many.shape[1])
    few = np.broadcast_to(column / column.size, too_many.shape)
    crowded = np.where(column % 2, 1.0, 1000.0) + too_many
    for dtype in _DTYPES[::2]:
        for weight, scaled in product((few.astype(dtype), crowded.astype(dtype)), (False, True)):
            _use(weight, PaletteSettings(4, per_channel_scale=scaled), weighted=False)
    for n_bits in N_BITS:
        indices = np.zeros((3, 5), np.uint8)
        unpack(pack(indices, n_bits), n_bits, indices.shape)


def _weights_of_each_size() -> tuple[NDArray[np.float32], ...]:
    """Return a weight of each size that has its own kernels: few values, many, too many to sort."""
    normal = np.random.default_rng(0).normal(0, 0.02, LARGEST_SORTED + (1 << 12))
    values = normal.astype(np.float32).reshape(-1, 64)
    return values[:4], values[: 1 << 7], values


def _use(weight: NDArray[Any], settings: PaletteSettings, *, weighted: bool) -> None:
    importance = np.ones(weight.shape, np.float32) if weighted else None
    errors(weight, reconstruct(palettize(weight, settings, importance)))
