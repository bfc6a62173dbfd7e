"""A palettized weight, and the way back to a dense one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import is_torch, numpy_dtype, to_numpy, to_torch
from palettery.kernels.groups import stored_layout
from palettery.kernels.jit import compiled
from palettery.kernels.lut import dense_lut
from palettery.kernels.metrics import Metrics
from palettery.kernels.scale import unscale
from palettery.kernels.source import read_only
from palettery.kernels.threads import Check, spread, unchecked


@dataclass(frozen=True)
class Palette:
    """Indices into small lookup tables, and what else it takes to get the weight back.

    Arrays are numpy arrays or torch tensors, as the weight was. For a weight of rank K:

    Shapes: indices are the weight's with axis 0 divided by cluster_dim; lut is
        [groups0, groups1, 1.., 2**n_bits, cluster_dim], of rank K + 2; lut_scale and lut_zero_point
        are [groups0, groups1, 1.., 1, 1]; per_channel_scale is [rows, 1..], of rank K.
    """

    indices: Any
    """uint8."""
    lut: Any
    """In the weight's dtype, or int8, uint8, float8 when quantized."""
    shape: tuple[int, ...]
    """Of the dense weight."""
    dtype: Any
    """Of the dense weight: a numpy or a torch dtype."""
    lut_scale: Any = None
    """float32, with a quantized LUT."""
    lut_zero_point: Any = None
    """In the LUT's dtype, with an integer LUT."""
    per_channel_scale: Any = None
    """float32, when the rows were scaled."""
    metrics: Metrics | None = None
    """How good it is; None for a palette put together from stored parts."""


def reconstruct(palette: Palette, threads: int | None = None) -> Any:
    """The dense weight a palette stands for, in the weight's own shape and dtype."""
    indices = to_numpy(palette.indices)
    dtype = numpy_dtype(palette.dtype)
    lut = dense_lut(
        to_numpy(palette.lut),
        dtype,
        _optional(palette.lut_scale),
        _optional(palette.lut_zero_point),
    )
    dense = look_up(indices, lut, palette.shape, _optional(palette.per_channel_scale), threads)
    return to_torch(dense) if is_torch(palette.indices) else dense


def look_up(
    indices: NDArray[np.uint8],
    lut: NDArray[Any],
    shape: tuple[int, ...],
    per_channel_scale: NDArray[np.float32] | None,
    threads: int | None,
    check: Check = unchecked,
) -> NDArray[Any]:
    """Replace indices by their entries and multiply the scale of each row back.

    Shapes: indices and lut as in `Palette` -> shape.
    """
    entries, cluster_dim = lut.shape[-2:]
    dense = np.empty(shape, lut.dtype)
    # Moving bits is all there is to do, so 2-, 4- and 8-byte integers serve every dtype.
    bits = f"u{lut.dtype.itemsize}"
    tables = lut.view(bits).reshape(-1, entries, cluster_dim)
    rows, *rest = shape
    lanes = dense.view(bits).reshape(rows // cluster_dim, cluster_dim, *rest)
    layout = stored_layout(indices.shape, lut.shape)

    def fill(piece: tuple[range, slice]) -> None:
        cells = read_only(layout.take(indices, *piece))
        for lane in range(cluster_dim):
            out = layout.take(lanes[:, lane], *piece)
            for group, row, line in zip(piece[0], cells, out, strict=True):
                _gather(row, tables[group, :, lane].copy(), line)
            layout.put(lanes[:, lane], piece[0], out, piece[1])

    spread(fill, layout.pieces(_BLOCK, _BLOCK), threads, check)
    if per_channel_scale is not None:
        unscale(dense, per_channel_scale, threads, check)
    return dense


_BLOCK = 1 << 18


@compiled
def _gather(cells: NDArray[np.uint8], table: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(cells.size):
        out[i] = table[cells[i]]


def _optional(array: Any) -> NDArray[Any] | None:
    return None if array is None else to_numpy(array)
