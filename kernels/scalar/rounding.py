"""Fast mode: rounding of values to float16 and then to a number of decimals before clustering.

There are so few rounded values that they are counted instead of sorted.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled

Floats = NDArray[np.float64]

LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
"""Largest magnitude that fast mode supports."""
ROUNDED_PER_ENTRY = 8
"""Distinct rounded values per palette entry that fast mode needs.

With fewer, many partitions of the rounded values have equal costs, but not those of the weights.
"""
MORE_DECIMALS = 2
"""Number of decimals that fast mode may add to get enough distinct values."""
FINEST = 24
"""Decimals of the smallest float16, 2**-24; rounding to more changes nothing."""


@lru_cache(maxsize=8)
def rounded_values(decimals: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return all rounded values, ascending, and the rank of each float16 code's rounded value.

    Rounds like coreai-opt: in float32, and not back to float16.

    Shapes: (distinct,), (65536,).
    """
    unrounded = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    unrounded[~np.isfinite(unrounded)] = 0
    scale = np.float32(10.0 ** min(decimals, FINEST))
    with np.errstate(over="ignore"):
        values, rank = np.unique(np.round(unrounded * scale) / scale, return_inverse=True)
    return values.astype(np.float32), rank.astype(np.int32)


def round_points(
    points: NDArray[np.floating], masses: Floats, codes: NDArray[np.uint16] | None, decimals: int
) -> tuple[NDArray[np.float32], Floats]:
    """Return the rounded values of ascending points and their masses; `codes` are float16 codes.

    Shapes: (n,), (n,), (n,) or None to compute the codes -> (distinct,), (distinct,).
    """
    by_rank, rank = rounded_values(decimals)
    if codes is None:
        codes = points.astype(np.float16).view(np.uint16)
    values, totals = np.empty(points.size, np.float32), np.empty(points.size)
    size = _merge(codes, masses, rank, by_rank, values, totals)
    return values[:size], totals[:size]


@compiled
def _merge(
    codes: NDArray[np.uint16],
    masses: Floats,
    rank: NDArray[np.int32],
    by_rank: NDArray[np.float32],
    values: NDArray[np.float32],
    totals: Floats,
) -> int:
    """Merge ascending codes of one rank; return their number. Shapes: (n,) -> values, totals."""
    size, total, current = 0, 0.0, rank[codes[0]]
    for i in range(codes.size):
        at = rank[codes[i]]
        if at != current:
            values[size], totals[size] = by_rank[current], total
            size, total, current = size + 1, 0.0, at
        total += masses[i]
    values[size], totals[size] = by_rank[current], total
    return size + 1


def count_rounded(
    values: NDArray[np.floating], mass: NDArray[np.floating] | None, decimals: int
) -> tuple[NDArray[np.float32], Floats]:
    """Return the distinct rounded values, ascending, and the count or mass of each.

    Shapes: values and mass (n,) -> (distinct,), (distinct,).
    """
    by_rank, rank = rounded_values(decimals)
    ends = np.array([values.min(), values.max()]).astype(np.float16).view(np.uint16)
    first, last = rank[ends]
    totals = np.zeros(last - first + 1)
    codes = values.astype(np.float16).view(np.uint16)
    if mass is None:
        _count_ranks(codes, rank, first, totals)
    else:
        _add_masses(codes, mass.astype(np.float64), rank, first, totals)
    present = np.flatnonzero(totals)
    return by_rank[first : last + 1][present], totals[present]


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
