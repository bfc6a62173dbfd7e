"""Scales of the rows of a weight."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import upcast
from palettery.kernels.errors import NonFiniteError
from palettery.kernels.jit import compiled
from palettery.kernels.threads import CancellationCheck, never_cancel, parallel_map

_BLOCK = 1 << 18
"""Elements per piece of work."""


def row_scale(
    weight: NDArray[Any], threads: int | None, check_cancelled: CancellationCheck = never_cancel
) -> NDArray[np.float32]:
    """Return the largest magnitude of each row, 1 for rows of zeros.

    Shapes: [rows, ...] -> [rows, 1, ..., 1].

    Raises:
        NonFiniteError: a weight is NaN, infinite, or beyond float32.
    """
    bits_dtype = np.dtype(f"u{weight.dtype.itemsize}")
    largest = np.empty(len(weight), bits_dtype)

    def find_largest(rows: slice) -> None:
        block = weight[rows].view(bits_dtype).reshape(len(largest[rows]), -1)
        _largest_bits(np.require(block, requirements=["C", "A"]), largest[rows])

    parallel_map(find_largest, row_blocks(weight), threads, check_cancelled)
    with np.errstate(over="ignore"):
        scale = upcast(largest.view(weight.dtype)).astype(np.float32)
    if not np.isfinite(scale).all():
        raise NonFiniteError
    scale[scale == 0] = 1
    return scale.reshape(-1, *[1] * (weight.ndim - 1))


def unscale(
    dense: NDArray[Any],
    per_channel_scale: NDArray[np.float32],
    threads: int | None,
    check_cancelled: CancellationCheck = never_cancel,
) -> None:
    """Multiply each row by its scale, in place, in float32 with one rounding to the dtype."""

    def run(rows: slice) -> None:
        block = dense[rows]
        block[...] = upcast(block) * per_channel_scale[rows]

    parallel_map(run, row_blocks(dense), threads, check_cancelled)


def row_blocks(array: NDArray[Any]) -> list[slice]:
    """Return slices of rows of about `_BLOCK` elements, for work in parallel."""
    step = max(1, _BLOCK * len(array) // array.size)
    return [slice(first, first + step) for first in range(0, len(array), step)]


@compiled
def _largest_bits(
    rows: NDArray[np.unsignedinteger[Any]], largest: NDArray[np.unsignedinteger[Any]]
) -> None:
    """Fill `largest` with the bits of each row's largest magnitude.

    Without the sign, bits compare like the magnitudes do.
    """
    for row in range(rows.shape[0]):
        row_largest = largest[row]
        row_largest = type(row_largest)(0)
        for i in range(rows.shape[1]):
            row_largest = max(row_largest, type(row_largest)(rows[row, i] << type(row_largest)(1)))
        largest[row] = row_largest >> type(row_largest)(1)
