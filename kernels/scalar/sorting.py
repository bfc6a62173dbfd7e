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

FEWEST: Final = 1 << 11
"""Number of values from which the radix sort is faster than numpy's sort."""
_DIGIT: Final = 11
_BUCKETS: Final = 1 << _DIGIT
_MOVES: Final = 4
"""Most places that insertion may move a value, on average."""


def sort_values(unsorted: NDArray[np.floating], scratch: ScratchBuffers) -> NDArray[np.floating]:
    """Return the sorted values, in the scratch or a copy; infinities and NaN are at the ends."""
    if unsorted.dtype != np.float32 or unsorted.size < FEWEST:
        return np.sort(unsorted)
    keys, spare = scratch.keys(unsorted.size)
    _encode(unsorted.view(np.uint32), keys)
    if not _radix_sort(keys, spare):
        keys.sort()
    _decode(keys, spare)
    values: NDArray[np.floating] = spare.view(np.float32)
    return values


def sort_order(values: NDArray[np.floating]) -> NDArray[np.integer[Any]]:
    """Return the indices that sort the values, by a stable sort."""
    if values.dtype != np.float32 or values.size < FEWEST:
        return np.argsort(values, kind="stable")
    keys, spare = np.empty(values.size, np.uint64), np.empty(values.size, np.uint64)
    _encode(values.view(np.uint32), keys)
    _append_position(keys)
    if not _radix_sort(keys, spare):
        keys.sort()
    return keys.astype(np.uint32)


@compiled_inline
def key_of(bits: np.uint32) -> np.uint32:
    """Return the bits of a float32, transformed so that keys compare like values."""
    return np.uint32(~bits if bits >> np.uint32(31) else bits | np.uint32(1 << 31))


@compiled
def _encode(bits: NDArray[np.uint32], keys: NDArray[np.unsignedinteger[Any]]) -> None:
    for i in range(bits.size):
        keys[i] = key_of(bits[i])


@compiled
def _decode(keys: NDArray[np.uint32], bits: NDArray[np.uint32]) -> None:
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
    least, most = keys[0], keys[0]
    for i in range(keys.size):
        least, most = min(least, keys[i]), max(most, keys[i])
    span, bits = most - least, 0
    while span > 0:
        span >>= type(span)(1)
        bits += 1
    low = max(0, bits - 2 * _DIGIT)
    first, second = np.zeros(_BUCKETS + 1, np.uint32), np.zeros(_BUCKETS + 1, np.uint32)
    for i in range(keys.size):
        digits = (keys[i] - least) >> type(least)(low)
        first[(digits & type(least)(_BUCKETS - 1)) + 1] += np.uint32(1)
        second[(digits >> type(least)(_DIGIT)) + 1] += np.uint32(1)
    _scatter(keys, spare, first, least, low)
    _scatter(spare, keys, second, least, low + _DIGIT)
    return _insertion_sort(keys)


@compiled
def _scatter(
    keys: NDArray[np.unsignedinteger[Any]],
    out: NDArray[np.unsignedinteger[Any]],
    counts: NDArray[np.uint32],
    least: int,
    shift: int,
) -> None:
    """Sort stably by one digit; the count of digit d is at position d + 1."""
    for bucket in range(_BUCKETS):
        counts[bucket + 1] += counts[bucket]
    for i in range(keys.size):
        digit = ((keys[i] - least) >> type(least)(shift)) & type(least)(_BUCKETS - 1)
        out[counts[digit]] = keys[i]
        counts[digit] += np.uint32(1)


@compiled
def _insertion_sort(keys: NDArray[np.unsignedinteger[Any]]) -> bool:
    """Sort nearly sorted keys by insertion; return False if that exceeds the allowed moves."""
    left = _MOVES * keys.size
    for i in range(1, keys.size):
        key, j = keys[i], i - 1
        if keys[j] <= key:
            continue
        while j >= 0 and keys[j] > key:
            keys[j + 1] = keys[j]
            j -= 1
        keys[j + 1] = key
        left -= i - j
        if left < 0:
            return False
    return True
