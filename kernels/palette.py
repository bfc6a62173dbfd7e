"""Palettized weights, and their reconstruction as dense ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import is_torch, numpy_dtype, read_only, to_numpy, to_torch
from palettery.kernels.groups import lut_layout
from palettery.kernels.jit import compiled
from palettery.kernels.lut import dense_lut
from palettery.kernels.metrics import Metrics
from palettery.kernels.scale import unscale
from palettery.kernels.threads import Check, no_check, parallel_map


@dataclass(frozen=True)
class Palette:
    """A palettized weight: indices, lookup tables (LUTs), and scales.

    Arrays are numpy arrays or torch tensors, like the weight. For a weight of rank K:

    Shapes: indices are the weight's with axis 0 divided by cluster_dim; lut is
        [groups0, groups1, 1.., 2**n_bits, cluster_dim], of rank K + 2; lut_scale and lut_zero_point
        are [groups0, groups1, 1.., 1, 1]; per_channel_scale is [rows, 1..], of rank K.
    """

    indices: Any
    """Index of the LUT entry of each weight or vector of weights, uint8."""
    lut: Any
    """Entries in the weight's dtype, or in int8, uint8 or float8 when quantized."""
    shape: tuple[int, ...]
    """Shape of the dense weight."""
    dtype: Any
    """Dtype of the dense weight, of numpy or torch."""
    lut_scale: Any = None
    """Scale of a quantized LUT, float32; None otherwise."""
    lut_zero_point: Any = None
    """Zero point of an integer LUT, in its dtype; None otherwise."""
    per_channel_scale: Any = None
    """Scale of each row, float32; None if the rows were not scaled."""
    metrics: Metrics | None = None
    """Errors and statistics; None for a palette that was read from a file."""


def reconstruct(palette: Palette, threads: int | None = None) -> Any:
    """Return the dense weight that a palette encodes, in the weight's shape and dtype."""
    indices = to_numpy(palette.indices)
    dtype = numpy_dtype(palette.dtype)
    lut = dense_lut(
        to_numpy(palette.lut),
        dtype,
        _optional_numpy(palette.lut_scale),
        _optional_numpy(palette.lut_zero_point),
    )
    dense = look_up(
        indices, lut, palette.shape, _optional_numpy(palette.per_channel_scale), threads
    )
    return to_torch(dense) if is_torch(palette.indices) else dense


def look_up(
    indices: NDArray[np.uint8],
    lut: NDArray[Any],
    shape: tuple[int, ...],
    per_channel_scale: NDArray[np.float32] | None,
    threads: int | None,
    check: Check = no_check,
) -> NDArray[Any]:
    """Replace indices by their LUT entries and multiply each row by its scale.

    Shapes: indices and lut as in `Palette` -> shape.
    """
    entries, cluster_dim = lut.shape[-2:]
    dense = np.empty(shape, lut.dtype)
    # Entries are only copied, so integers of 2, 4 and 8 bytes serve every dtype.
    bits = f"u{lut.dtype.itemsize}"
    tables = lut.view(bits).reshape(-1, entries, cluster_dim)
    rows, *rest = shape
    lanes = dense.view(bits).reshape(rows // cluster_dim, cluster_dim, *rest)
    layout = lut_layout(indices.shape, lut.shape)

    def fill(piece: tuple[range, slice]) -> None:
        cells = read_only(layout.take(indices, *piece))
        for lane in range(cluster_dim):
            out = layout.take(lanes[:, lane], *piece)
            for group, row, line in zip(piece[0], cells, out, strict=True):
                _gather(row, tables[group, :, lane].copy(), line)
            layout.put(lanes[:, lane], piece[0], out, piece[1])

    parallel_map(fill, layout.pieces(_BLOCK, _BLOCK), threads, check)
    if per_channel_scale is not None:
        unscale(dense, per_channel_scale, threads, check)
    return dense


_BLOCK = 1 << 18


@compiled
def _gather(cells: NDArray[np.uint8], table: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(cells.size):
        out[i] = table[cells[i]]


def _optional_numpy(array: Any) -> NDArray[Any] | None:
    return None if array is None else to_numpy(array)
