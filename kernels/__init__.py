"""K-means palettization of arrays: `palettize` a weight, `reconstruct` it, `pack` its indices."""

from palettery.kernels.fingerprint import fingerprint
from palettery.kernels.packing import pack, pack_mask, unpack, unpack_mask
from palettery.kernels.padding import pad_groups, stored_per_group
from palettery.kernels.palette import Palette, reconstruct
from palettery.kernels.palettize import palettize
from palettery.kernels.rows_palette import RowSource, RowsPalette
from palettery.kernels.scores import Score, Scores, palette_scores, palette_scores_rows
from palettery.kernels.settings import PaletteSettings, VectorKMeans
from palettery.kernels.sparsity import fills_vectors, is_sparse, nonzero
from palettery.kernels.streaming import can_stream, palettize_rows
from palettery.kernels.warmup import warm_up

__all__ = [
    "Palette",
    "PaletteSettings",
    "RowSource",
    "RowsPalette",
    "Score",
    "Scores",
    "VectorKMeans",
    "can_stream",
    "fills_vectors",
    "fingerprint",
    "is_sparse",
    "nonzero",
    "pack",
    "pack_mask",
    "pad_groups",
    "palette_scores",
    "palette_scores_rows",
    "palettize",
    "palettize_rows",
    "reconstruct",
    "stored_per_group",
    "unpack",
    "unpack_mask",
    "warm_up",
]
