"""Sparse weights: a mask marks the stored weights, which alone have palette indices."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import ScalarT, contiguous, read_only, upcast
from palettery.kernels.groups import GroupLayout, layout_from_lut
from palettery.kernels.jit import compiled
from palettery.kernels.scale import row_blocks, unscale
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.threads import CancellationCheck, never_cancel, parallel_map

Mask = NDArray[np.bool_]
"""Whether each weight is stored, in the shape of the weight."""


def is_sparse(zeros: int, count: int, threshold: float | None) -> bool:
    """Return whether a weight of this many zeros is sparse; one without zeros never is."""
    return threshold is not None and zeros > 0 and zeros >= threshold * count


def fills_vectors(fullest: int, dim: int) -> bool:
    """Return whether a sparse weight can be stored as vectors of `dim` weights.

    It cannot if no group has `dim` nonzero weights, since all of them would become zeros; unless
    all weights are zero anyway. `fullest` is the largest number of nonzero weights of a group.
    """
    return fullest == 0 or fullest >= dim


def nonzero(
    weight: NDArray[Any],
    threads: int | None = None,
    check_cancelled: CancellationCheck = never_cancel,
) -> Mask:
    """Return which weights are not zero; -0.0 counts as zero. Shapes: any -> same."""
    bits, mask = weight.view(f"u{weight.dtype.itemsize}"), np.empty(weight.shape, np.bool_)

    def run(rows: slice) -> None:
        _mark_nonzero(read_only(contiguous(bits[rows])).reshape(-1), mask[rows].reshape(-1))

    parallel_map(run, row_blocks(weight), threads, check_cancelled)
    return mask


@compiled
def _mark_nonzero(bits: NDArray[np.unsignedinteger[Any]], mask: Mask) -> None:
    for i in range(bits.size):
        mask[i] = type(bits[i])(bits[i] << type(bits[i])(1)) != 0


def find_mask(
    weight: NDArray[Any],
    layout: GroupLayout,
    settings: PaletteSettings,
    threads: int | None,
    check_cancelled: CancellationCheck = never_cancel,
    sparse: bool | None = None,
) -> tuple[Mask | None, int]:
    """Return the mask of stored weights, and how many nonzero ones are dropped to fill vectors.

    The mask is None if the weight is not sparse, or if no vector would be stored. `sparse`, unless
    None, overrides both conditions.
    """
    if settings.sparsity_threshold is None or sparse is False:
        return None, 0
    mask = nonzero(weight, threads, check_cancelled)
    zeros = mask.size - int(np.count_nonzero(mask))
    if not (sparse or is_sparse(zeros, mask.size, settings.sparsity_threshold)):
        return None, 0
    dim = settings.cluster_dim
    dropped = drop_incomplete(mask, weight, layout, dim) if dim > 1 else 0
    if sparse is None and dropped and not mask.any():
        return None, 0
    return mask, dropped


def sparsity_notes(num_stored: int | None, dropped: int = 0) -> tuple[str, ...]:
    """Return notes about a sparse weight with this many stored values."""
    if dropped:
        return (
            f"{dropped} nonzero weights became zeros, the smallest of their groups: the weights "
            "that are left fill whole vectors",
        )
    if num_stored == 0:
        return ("all of its weights are zero: it is kept as a constant, without an index",)
    return ()


def drop_incomplete(mask: Mask, weight: NDArray[Any], layout: GroupLayout, dim: int) -> int:
    """Clear the smallest weights in the mask until `dim` divides their number in each group.

    Of equal magnitudes the first are cleared. Returns the number of cleared weights.

    Shapes: mask and weight the layout's, groups on axis 0.
    """
    dropped = 0
    for group in range(layout.groups):
        group_range = range(group, group + 1)
        group_mask = layout.cut(mask, group_range)
        if excess := int(np.count_nonzero(group_mask)) % dim:
            positions = np.flatnonzero(group_mask)
            magnitudes = np.abs(upcast(layout.cut(weight, group_range).reshape(-1)[positions]))
            threshold = np.partition(magnitudes, excess - 1)[excess - 1]
            smaller, equal = (
                np.flatnonzero(condition)
                for condition in (magnitudes < threshold, magnitudes == threshold)
            )
            smallest = np.append(smaller, equal[: excess - smaller.size])
            group_mask.reshape(-1)[positions[smallest]] = False
            dropped += excess
    return dropped


def take_stored(
    values: NDArray[ScalarT], mask: Mask, out: NDArray[np.unsignedinteger[Any]] | None = None
) -> NDArray[ScalarT]:
    """Return the values in the mask, in order, in `out` if it is not None.

    Shapes: (n,), (n,) -> (num_stored,); out has n + 1 unsigned integers of the size of the values.
    """
    dtype = f"u{values.dtype.itemsize}"
    selected = np.empty(values.size + 1, dtype) if out is None else out
    size = _compact(read_only(values.view(dtype)), read_only(mask), selected)
    return read_only(selected[:size].view(values.dtype))


class LineBuffers(threading.local):
    """Buffers of each thread for the stored values of its current groups.

    To allocate memory for every group would take more time, in page faults, than the copy.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[Any]] = {}

    def take(
        self, purpose: str, lines: NDArray[ScalarT], masks: Mask
    ) -> Sequence[NDArray[ScalarT]]:
        """Return the stored values of each line, valid until the next call with the same `purpose`.

        Shapes: lines, masks (groups, elements) -> an array (num_stored,) for each group.
        """
        count, length = lines.shape
        size, dtype = count * (length + 1), f"u{lines.dtype.itemsize}"
        buffer = self._buffers.get(purpose)
        if buffer is None or buffer.size < size or buffer.dtype != dtype:
            buffer = self._buffers[purpose] = np.empty(size, dtype)
        outputs = buffer[:size].reshape(count, length + 1)
        return [take_stored(*line) for line in zip(lines, masks, outputs, strict=True)]


@compiled
def _compact(values: NDArray[Any], mask: Mask, out: NDArray[Any]) -> int:
    """Fill `out` (n + 1,) with the values (n,) in the mask; return their number."""
    count = 0
    for i in range(values.size):
        out[count] = values[i]
        count += mask[i]
    return count


def put_stored(indices: NDArray[np.uint8], mask: Mask, out: NDArray[np.uint8]) -> None:
    """Fill `out` with the indices where the mask is true, and with 0 elsewhere.

    Shapes: indices (num_stored,), mask (n,) -> out (n,).
    """
    _expand(np.append(indices, np.uint8(0)), read_only(mask), out)


@compiled
def _expand(indices: NDArray[np.uint8], mask: Mask, out: NDArray[np.uint8]) -> None:
    count = 0
    for i in range(mask.size):
        out[i] = indices[count] * np.uint8(mask[i])  # a branch would be mispredicted half the time
        count += mask[i]


def look_up_stored(
    indices: NDArray[np.uint8],
    lut: NDArray[Any],
    mask: Mask,
    per_channel_scale: NDArray[np.float32] | None,
    threads: int | None,
    skip: int = 0,
    check_cancelled: CancellationCheck = never_cancel,
) -> NDArray[Any]:
    """Return the dense form of a sparse weight from the indices of its stored values, row-major.

    `skip` is the number of stored values in `indices` before the first row of the mask.

    Shapes: indices (vectors,), lut as in `Palette`, mask the weight's -> the weight's.
    """
    dim, layout = lut.shape[-1], layout_from_lut(mask.shape, lut.shape)
    # Entries are only copied, so integers of 2, 4 and 8 bytes serve every dtype.
    dtype, dense = f"u{lut.dtype.itemsize}", np.zeros(mask.shape, lut.dtype)
    table, out = lut.view(dtype).reshape(-1), dense.view(dtype)
    channels = np.arange(mask.shape[layout.axis])
    first_entry = channels // layout.size * (table.size // layout.groups)
    along = [-1 if axis == layout.axis else 1 for axis in range(mask.ndim)]
    first_entry = np.broadcast_to(first_entry.reshape(along), mask.shape)
    blocks = row_blocks(dense)
    ends = np.cumsum([np.count_nonzero(mask[rows]) for rows in blocks]) + skip

    def fill(piece: tuple[slice, int]) -> None:
        rows, end = piece
        block_mask = mask[rows]
        first_entries = first_entry[rows][block_mask]
        number = np.arange(end - first_entries.size, end)
        out[rows][block_mask] = table[
            first_entries + indices[number // dim] * np.int64(dim) + number % dim
        ]

    parallel_map(fill, zip(blocks, map(int, ends), strict=True), threads, check_cancelled)
    if per_channel_scale is not None:
        unscale(dense, per_channel_scale, threads, check_cancelled)
    return dense
