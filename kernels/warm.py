"""Load every kernel, so that no work waits for it."""

import itertools

import numpy as np

from kernels.packing import pack, unpack
from kernels.palette import reconstruct
from kernels.palettize import palettize
from kernels.settings import PaletteSettings


def warm() -> None:
    """Load every kernel."""
    weight = np.random.default_rng(0).normal(size=(1024, 1024))
    # Small groups and whole tensors, fast and exact mode, half precision take their own kernels.
    for (n_bits, group_size), decimals, dtype in itertools.product(
        ((4, 16), (8, None)), (4, None), (np.float32, np.float16)
    ):
        settings = PaletteSettings(n_bits, group_size=group_size, rounding_precision=decimals)
        palette = palettize(weight.astype(dtype), settings)
        unpack(pack(palette.indices, n_bits), n_bits, palette.indices.shape)
        reconstruct(palette)
