"""K-means palettization of arrays: `palettize` a weight, `reconstruct` it, `pack` its indices."""

from palettery.kernels.fingerprint import fingerprint
from palettery.kernels.packing import pack, unpack
from palettery.kernels.palette import Palette, reconstruct
from palettery.kernels.palettize import palettize
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.streaming import RowSource, RowsPalette, can_stream, palettize_rows
from palettery.kernels.warmup import warm_up

__all__ = [
    "Palette",
    "PaletteSettings",
    "RowSource",
    "RowsPalette",
    "can_stream",
    "fingerprint",
    "pack",
    "palettize",
    "palettize_rows",
    "reconstruct",
    "unpack",
    "warm_up",
]
