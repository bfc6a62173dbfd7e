"""Padding of sparse weights to equally many stored values per group, as some formats require.

Groups with fewer stored values store some of their zeros, too, so their palette needs an entry 0.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.groups import layout_from_lut
from palettery.kernels.lut import dense_lut
from palettery.kernels.palette import Palette
from palettery.kernels.sparsity import Mask, put_stored, take_stored

Floats = NDArray[np.floating]


def stored_per_group(mask: Mask, lut_shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the number of stored values of each group. Shapes: mask the weight's -> (groups,)."""
    layout = layout_from_lut(mask.shape, lut_shape)
    return np.concatenate(
        [layout.take(mask, groups).sum(axis=1, dtype=np.int64) for groups in layout.batches(1)]
    )


def pad_groups(palette: Palette) -> Palette:
    """Return a scalar palette of a sparse weight with equally many stored values in every group.

    The groups must lie on axis 0. If a padded group uses all entries, and none is 0, the two
    neighbouring entries whose merger adds the least error become one.
    """
    counts = stored_per_group(palette.mask, palette.lut.shape)
    lut = dense_lut(palette.lut, palette.dtype, palette.lut_scale, palette.lut_zero_point).copy()
    mask, all_indices = palette.mask.copy(), np.empty(palette.mask.size, np.uint8)
    put_stored(palette.indices, palette.mask.reshape(-1), all_indices)
    tables = lut.reshape(counts.size, -1)
    group_masks, group_indices = mask.reshape(counts.size, -1), all_indices.reshape(counts.size, -1)
    for group in np.flatnonzero(counts < counts.max()):
        used = group_indices[group][group_masks[group]]
        zero, used = _make_zero_entry(tables[group], used)
        group_indices[group][group_masks[group]] = used
        spare = np.flatnonzero(~group_masks[group])[: counts.max() - counts[group]]
        group_masks[group][spare] = True
        group_indices[group][spare] = zero
    indices = take_stored(all_indices, mask.reshape(-1))
    padded = replace(palette, indices=indices, lut=lut, mask=mask)
    return replace(padded, lut_scale=None, lut_zero_point=None)


def _make_zero_entry(entries: Floats, indices: NDArray[np.uint8]) -> tuple[int, NDArray[np.uint8]]:
    """Set an entry to 0, in place, unless there is one; return its index, and the new indices.

    Shapes: entries (K,), indices (n,).
    """
    used = np.bincount(indices, minlength=entries.size).astype(np.float64)
    candidates = np.flatnonzero((entries == 0) | (used == 0))
    if candidates.size:
        entries[candidates[0]] = 0
        return int(candidates[0]), indices
    order = np.argsort(entries, kind="stable")
    low, high = order[:-1], order[1:]
    total, values = used[low] + used[high], entries.astype(np.float64)
    cost = used[low] * used[high] / total * (values[high] - values[low]) ** 2
    pair = int(np.argmin(cost))
    merged, freed = int(low[pair]), int(high[pair])
    entries[merged] = (used[merged] * values[merged] + used[freed] * values[freed]) / total[pair]
    entries[freed] = 0
    return freed, np.where(indices == freed, np.uint8(merged), indices)
