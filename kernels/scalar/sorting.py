"""Sorting of the values of a group: radix sort of float32 keys that compare like the values.

Two radix passes over the leading bits of the range of the keys leave few values out of place, and
one insertion pass moves those. If it would have to move many, as when values crowd into a small
part of their range, a comparison sort is used.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled, compiled_inline
from palettery.kernels.scalar.scratch_buffers import ScratchBuffers

MIN_RADIX_SIZE: Final = 1 << 11
"""Number of values from which the radix sort is faster than numpy's sort."""
_DIGIT_BITS: Final = 11
_BUCKETS: Final = 1 << _DIGIT_BITS
_MAX_MOVES: Final = 4
"""Largest average number of positions by which the insertion pass may move a value."""


def sort_values(unsorted: NDArray[np.floating], scratch: ScratchBuffers) -> NDArray[np.floating]:
    """Return the sorted values, in the scratch or a copy; infinities and NaN are at the ends."""
    if unsorted.dtype != np.float32 or unsorted.size < MIN_RADIX_SIZE:
        return np.sort(unsorted)
    keys, spare = scratch.keys(unsorted.size)
    _encode_keys(unsorted.view(np.uint32), keys)
    if not _radix_sort(keys, spare):
        keys.sort()
    _decode_keys(keys, spare)
    values: NDArray[np.floating] = spare.view(np.float32)
    return values


def sort_order(values: NDArray[np.floating]) -> NDArray[np.integer[Any]]:
    """Return the indices that sort the values, by a stable sort."""
    if values.dtype != np.float32 or values.size < MIN_RADIX_SIZE:
        return np.argsort(values, kind="stable")
    keys, spare = np.empty(values.size, np.uint64), np.empty(values.size, np.uint64)
    _encode_keys(values.view(np.uint32), keys)
    _append_position(keys)
    if not _radix_sort(keys, spare):
        keys.sort()
    return keys.astype(np.uint32)


@compiled_inline
def key_of(bits: np.uint32) -> np.uint32:
    """Return the bits of a float32, transformed so that keys compare like values."""
    return np.uint32(~bits if bits >> np.uint32(31) else bits | np.uint32(1 << 31))


@compiled
def _encode_keys(bits: NDArray[np.uint32], keys: NDArray[np.unsignedinteger[Any]]) -> None:
    for i in range(bits.size):
        keys[i] = key_of(bits[i])


@compiled
def _decode_keys(keys: NDArray[np.uint32], bits: NDArray[np.uint32]) -> None:
    for i in range(keys.size):
        key = keys[i]
        bits[i] = np.uint32(key ^ np.uint32(1 << 31) if key >> np.uint32(31) else ~key)


@compiled
def _append_position(keys: NDArray[np.uint64]) -> None:
    """Combine each key with its position, as the upper and the lower half of a word."""
    for i in range(keys.size):
        keys[i] = (keys[i] << np.uint64(32)) | np.uint64(i)


@compiled
def _radix_sort(
    keys: NDArray[np.unsignedinteger[Any]], spare: NDArray[np.unsignedinteger[Any]]
) -> bool:
    """Sort in place; return False, with keys in any order, if insertion would move too many."""
    smallest, largest = keys[0], keys[0]
    for i in range(keys.size):
        smallest, largest = min(smallest, keys[i]), max(largest, keys[i])
    span, bits = largest - smallest, 0
    while span > 0:
        span >>= type(span)(1)
        bits += 1
    shift = max(0, bits - 2 * _DIGIT_BITS)
    low_counts, high_counts = np.zeros(_BUCKETS + 1, np.uint32), np.zeros(_BUCKETS + 1, np.uint32)
    for i in range(keys.size):
        digits = (keys[i] - smallest) >> type(smallest)(shift)
        low_counts[(digits & type(smallest)(_BUCKETS - 1)) + 1] += np.uint32(1)
        high_counts[(digits >> type(smallest)(_DIGIT_BITS)) + 1] += np.uint32(1)
    _scatter(keys, spare, low_counts, smallest, shift)
    _scatter(spare, keys, high_counts, smallest, shift + _DIGIT_BITS)
    return _insertion_sort(keys)


@compiled
def _scatter(
    keys: NDArray[np.unsignedinteger[Any]],
    out: NDArray[np.unsignedinteger[Any]],
    counts: NDArray[np.uint32],
    smallest: int,
    shift: int,
) -> None:
    """Sort stably by one digit; the count of digit d is at position d + 1."""
    for bucket in range(_BUCKETS):
        counts[bucket + 1] += counts[bucket]
    for i in range(keys.size):
        digit = ((keys[i] - smallest) >> type(smallest)(shift)) & type(smallest)(_BUCKETS - 1)
        out[counts[digit]] = keys[i]
        counts[digit] += np.uint32(1)


@compiled
def _insertion_sort(keys: NDArray[np.unsignedinteger[Any]]) -> bool:
    """Sort nearly sorted keys by insertion; return False if that exceeds the allowed moves."""
    moves_left = _MAX_MOVES * keys.size
    for i in range(1, keys.size):
        key, j = keys[i], i - 1
        if keys[j] <= key:
            continue
        while j >= 0 and keys[j] > key:
            keys[j + 1] = keys[j]
            j -= 1
        keys[j + 1] = key
        moves_left -= i - j
        if moves_left < 0:
            return False
    return True
