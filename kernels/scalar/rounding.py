"""Fast mode: rounding of values to float16 and then to a number of decimals before clustering.

There are so few rounded values that they are counted instead of sorted.
"""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled

Floats = NDArray[np.float64]

LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
"""Largest magnitude that fast mode supports."""
MIN_VALUES_PER_ENTRY = 8
"""Distinct rounded values per palette entry that fast mode needs.

With fewer, many partitions of the rounded values have equal costs, but not those of the weights.
"""
MAX_EXTRA_DECIMALS = 2
"""Number of decimals that fast mode may add to get enough distinct values."""
MAX_DECIMALS = 24
"""Decimals of the smallest float16, 2**-24; rounding to more changes nothing."""
MAX_MULTIPLE: Final = 1 << 14
"""Largest rounded value, in units of the last decimal, for which multiples are counted directly.

Two such multiples still differ as float32 after the division by the power of ten.
"""
_BLOCK: Final = 512
_SMALLEST_NORMAL: Final = np.float32(2.0**-14)
"""Smallest normal float16."""
_SUBNORMAL_UNIT: Final = np.float32(0.75)
"""Float32 between 0.5 and 1, where numbers lie 2**-24 apart, as subnormal float16 do."""


@lru_cache(maxsize=8)
def rounded_values(decimals: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return all rounded values, ascending, and the rank of each float16 code's rounded value.

    Rounds like coreai-opt: in float32, and not back to float16.

    Shapes: (distinct,), (65536,).
    """
    unrounded = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    unrounded[~np.isfinite(unrounded)] = 0
    scale = np.float32(10.0 ** min(decimals, MAX_DECIMALS))
    with np.errstate(over="ignore"):
        values, rank = np.unique(np.round(unrounded * scale) / scale, return_inverse=True)
    return values.astype(np.float32), rank.astype(np.int32)


def round_points(
    points: NDArray[np.floating], masses: Floats, codes: NDArray[np.uint16] | None, decimals: int
) -> tuple[NDArray[np.float32], Floats]:
    """Return the rounded values of ascending points and their masses; `codes` are float16 codes.

    Shapes: (n,), (n,), (n,) or None to compute the codes -> (distinct,), (distinct,).
    """
    value_of_rank, rank = rounded_values(decimals)
    if codes is None:
        codes = points.astype(np.float16).view(np.uint16)
    values, totals = np.empty(points.size, np.float32), np.empty(points.size)
    size = _merge_ranks(codes, masses, rank, value_of_rank, values, totals)
    return values[:size], totals[:size]


@compiled
def _merge_ranks(
    codes: NDArray[np.uint16],
    masses: Floats,
    rank: NDArray[np.int32],
    value_of_rank: NDArray[np.float32],
    values: NDArray[np.float32],
    totals: Floats,
) -> int:
    """Merge ascending codes of equal rank; fill values and totals (n,), and return how many."""
    size, total, current_rank = 0, 0.0, rank[codes[0]]
    for i in range(codes.size):
        next_rank = rank[codes[i]]
        if next_rank != current_rank:
            values[size], totals[size] = value_of_rank[current_rank], total
            size, total, current_rank = size + 1, 0.0, next_rank
        total += masses[i]
    values[size], totals[size] = value_of_rank[current_rank], total
    return size + 1


def count_rounded(
    values: NDArray[np.floating],
    mass: NDArray[np.floating] | None,
    decimals: int,
    largest: float,
) -> tuple[NDArray[np.float32], Floats]:
    """Return the distinct rounded values, ascending, and the count or mass of each.

    `largest` is the largest magnitude of the values.

    Shapes: values and mass (n,) -> (distinct,), (distinct,).
    """
    largest_float16, scale = np.float16(largest), np.float32(10.0 ** min(decimals, MAX_DECIMALS))
    max_multiple = np.round(np.float32(largest_float16) * scale)
    if mass is None and values.dtype == np.float32 and max_multiple <= MAX_MULTIPLE:
        return _count_multiples(values.view(np.uint32), values, scale, int(max_multiple))
    value_of_rank, rank = rounded_values(decimals)
    first, last = rank[np.array([-largest_float16, largest_float16]).view(np.uint16)]
    totals = np.zeros(last - first + 1)
    codes = values.astype(np.float16).view(np.uint16)
    if mass is None:
        _count_ranks(codes, rank, first, totals)
    else:
        _add_masses(codes, mass.astype(np.float64), rank, first, totals)
    occurring = np.flatnonzero(totals)
    return value_of_rank[first : last + 1][occurring], totals[occurring]


@compiled
def _count_multiples(
    bits: NDArray[np.uint32], values: NDArray[np.float32], scale: np.float32, max_multiple: int
) -> tuple[NDArray[np.float32], Floats]:
    """Count values rounded to multiples of 1 / scale, the largest of which is `max_multiple`.

    Blocks fit into the first-level cache, and each loop over one can use vector instructions.

    Shapes: bits of the values (n,), values (n,) -> (distinct,), (distinct,).
    """
    words, multiples = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.int32)
    float16_values, counts = words.view(np.float32), np.zeros(2 * max_multiple + 1, np.uint32)
    for start in range(0, values.size, _BLOCK):
        block_bits, block = bits[start : start + _BLOCK], values[start : start + _BLOCK]
        for i in range(block_bits.size):  # to the 11 bits of a float16, half to even
            odd = (block_bits[i] >> np.uint32(13)) & np.uint32(1)
            words[i] = (block_bits[i] + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000)
        for i in range(block_bits.size):
            subnormal = (block[i] + _SUBNORMAL_UNIT) - _SUBNORMAL_UNIT
            float16_value = float16_values[i] if abs(block[i]) >= _SMALLEST_NORMAL else subnormal
            multiples[i] = np.int32(np.rint(float16_value * scale)) + np.int32(max_multiple)
        for i in range(block_bits.size):
            counts[np.uint32(multiples[i])] += np.uint32(1)
    distinct = 0
    for count in counts:
        distinct += int(count > 0)
    distinct_values, totals, position = np.empty(distinct, np.float32), np.empty(distinct), 0
    for multiple in range(counts.size):
        if counts[multiple] > 0:
            distinct_values[position], totals[position] = (
                np.float32(multiple - max_multiple) / scale,
                counts[multiple],
            )
            position += 1
    return distinct_values, totals


@compiled
def _count_ranks(
    codes: NDArray[np.uint16], rank: NDArray[np.int32], first: int, totals: Floats
) -> None:
    for i in range(codes.size):
        totals[rank[codes[i]] - first] += 1.0


@compiled
def _add_masses(
    codes: NDArray[np.uint16], mass: Floats, rank: NDArray[np.int32], first: int, totals: Floats
) -> None:
    for i in range(codes.size):
        totals[rank[codes[i]] - first] += mass[i]
