"""Palettized weights, and the reconstruction of the dense weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import is_torch, numpy_dtype, read_only, to_numpy, to_torch
from palettery.kernels.groups import layout_from_lut
from palettery.kernels.jit import compiled
from palettery.kernels.lut import dense_lut
from palettery.kernels.metrics import Metrics
from palettery.kernels.scale import unscale
from palettery.kernels.sparsity import look_up_stored
from palettery.kernels.threads import CancellationCheck, never_cancel, parallel_map
from palettery.kernels.weight_reader import WeightReader


@dataclass(frozen=True)
class Palette:
    """A palettized weight: indices, lookup tables (LUTs), and scales.

    Arrays are numpy arrays or torch tensors, like the weight. For a weight of rank K:

    Shapes: indices are the weight's with axis 0 divided by cluster_dim; lut is of rank K + 2,
        [groups on axis 0, groups on axis 1, 1, ..., 1, 2**n_bits, cluster_dim]; lut_scale and
        lut_zero_point have lengths 1 instead of the last two; per_channel_scale is
        [rows, 1, ..., 1], of rank K. With a mask, which has the weight's shape, indices are of
        rank 1: those of stored weights, row-major.
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
    mask: Any = None
    """Which elements of a sparse weight are stored, bool; the others are zero. None: all are."""
    skip: int = 0
    """Number of stored weights in `indices` that precede the rows of this palette."""
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
    scale, mask = _optional_numpy(palette.per_channel_scale), _optional_numpy(palette.mask)
    if mask is None:
        dense = look_up(indices, lut, palette.shape, scale, threads)
    else:
        dense = look_up_stored(indices, lut, mask, scale, threads, palette.skip)
    return to_torch(dense) if is_torch(palette.indices) else dense


def decode(
    indices: NDArray[np.uint8],
    lut: NDArray[Any],
    reader: WeightReader,
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> NDArray[Any]:
    """Return the reconstruction of the reader's weight. Shapes: as in `Palette`."""
    if reader.mask is None:
        return look_up(indices, lut, reader.weight.shape, reader.scale, threads, check_cancelled)
    return look_up_stored(
        indices, lut, reader.mask, reader.scale, threads, check_cancelled=check_cancelled
    )


def look_up(
    indices: NDArray[np.uint8],
    lut: NDArray[Any],
    shape: tuple[int, ...],
    per_channel_scale: NDArray[np.float32] | None,
    threads: int | None,
    check_cancelled: CancellationCheck = never_cancel,
) -> NDArray[Any]:
    """Replace indices by their LUT entries and multiply each row by its scale.

    Shapes: indices and lut as in `Palette` -> shape.
    """
    entries, cluster_dim = lut.shape[-2:]
    dense = np.empty(shape, lut.dtype)
    # Entries are only copied, so integers of 2, 4 and 8 bytes serve every dtype.
    dtype = f"u{lut.dtype.itemsize}"
    columns = lut.view(dtype).reshape(-1, entries, cluster_dim)
    rows, *rest = shape
    out_rows = dense.view(dtype).reshape(rows // cluster_dim, cluster_dim, *rest)
    layout = layout_from_lut(indices.shape, lut.shape)

    def fill(piece: tuple[range, slice]) -> None:
        piece_indices = read_only(layout.take(indices, *piece))
        for part in range(cluster_dim):
            piece_out = layout.take(out_rows[:, part], *piece)
            for group, group_indices, group_out in zip(
                piece[0], piece_indices, piece_out, strict=True
            ):
                _look_up(group_indices, columns[group, :, part].copy(), group_out)
            layout.put(out_rows[:, part], piece[0], piece_out, piece[1])

    parallel_map(fill, layout.pieces(_BLOCK, _BLOCK), threads, check_cancelled)
    if per_channel_scale is not None:
        unscale(dense, per_channel_scale, threads, check_cancelled)
    return dense


_BLOCK = 1 << 18


@compiled
def _look_up(indices: NDArray[np.uint8], lut: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(indices.size):
        out[i] = lut[indices[i]]


def _optional_numpy(array: Any) -> NDArray[Any] | None:
    return None if array is None else to_numpy(array)
