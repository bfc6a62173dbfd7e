"""K-means palettization of arrays: `palettize` a weight, `reconstruct` it, `pack` its indices."""

from kernels.fingerprint import fingerprint
from kernels.packing import pack, unpack
from kernels.palette import Palette, reconstruct
from kernels.palettize import palettize
from kernels.rows import RowSource, RowsPalette, can_stream, palettize_rows
from kernels.settings import PaletteSettings
from kernels.warm import warm

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
    "warm",
]
