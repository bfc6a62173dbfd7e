"""Ascending values of a group: radix passes over the bits that float32 values order by.

Two scatters over the leading bits of the span that the keys really use leave few values out of
place, and one insertion pass mends those. Where it would have to move many (values crowded into a
sliver of their range), a comparison sort takes over.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled, compiled_inline
from palettery.kernels.scalar.scratch import Scratch

FEWEST: Final = 1 << 11
"""Values from which radix passes, with their tables, are quicker than numpy's sort."""
_DIGIT: Final = 11
_BUCKETS: Final = 1 << _DIGIT
_MOVES: Final = 4
"""Places that a value may be moved by insertion, on average."""


def ascending(unsorted: NDArray[np.floating], scratch: Scratch) -> NDArray[np.floating]:
    """The values sorted, in the scratch or a copy; infinities and NaN lie at the ends."""
    if unsorted.dtype != np.float32 or unsorted.size < FEWEST:
        return np.sort(unsorted)
    keys, spare = scratch.keys(unsorted.size)
    _encode(unsorted.view(np.uint32), keys)
    if not _radix_sort(keys, spare):
        keys.sort()
    _decode(keys, spare)
    values: NDArray[np.floating] = spare.view(np.float32)
    return values


def ascending_order(values: NDArray[np.floating]) -> NDArray[np.integer[Any]]:
    """The order that sorts the values, equal ones as they come."""
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
    """The bits of a float32, reordered so that they compare as the values do."""
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
    """Keys as the upper half of a word, positions as the lower."""
    for i in range(keys.size):
        keys[i] = (keys[i] << np.uint64(32)) | np.uint64(i)


@compiled
def _radix_sort(
    keys: NDArray[np.unsignedinteger[Any]], spare: NDArray[np.unsignedinteger[Any]]
) -> bool:
    """Sort in place; False, with the keys in some order, when insertion had too much to do."""
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
    return _inserted(keys)


@compiled
def _scatter(
    keys: NDArray[np.unsignedinteger[Any]],
    out: NDArray[np.unsignedinteger[Any]],
    counts: NDArray[np.uint32],
    least: int,
    shift: int,
) -> None:
    """Order by one digit, equal ones as they come; counts of digit d stand at d + 1."""
    for bucket in range(_BUCKETS):
        counts[bucket + 1] += counts[bucket]
    for i in range(keys.size):
        digit = ((keys[i] - least) >> type(least)(shift)) & type(least)(_BUCKETS - 1)
        out[counts[digit]] = keys[i]
        counts[digit] += np.uint32(1)


@compiled
def _inserted(keys: NDArray[np.unsignedinteger[Any]]) -> bool:
    """Finish nearly sorted keys by insertion; False when over the allowed moves."""
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
