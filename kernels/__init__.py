"""K-means palettization of arrays: `palettize` a weight, `reconstruct` it, `pack` its indices."""

from kernels.packing import pack, unpack
from kernels.palette import Palette, reconstruct
from kernels.palettize import palettize
from kernels.rows import RowSource, RowsPalette, can_stream, palettize_rows
from kernels.settings import PaletteSettings

__all__ = [
    "Palette",
    "PaletteSettings",
    "RowSource",
    "RowsPalette",
    "can_stream",
    "pack",
    "palettize",
    "palettize_rows",
    "reconstruct",
    "unpack",
]
