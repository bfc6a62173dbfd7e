"""Fast mode: cluster values rounded to float16 and then to a number of decimals.

There are so few of those that counting each replaces sorting.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled

Floats = NDArray[np.float64]

LARGEST = float(np.finfo(np.float16).max)
"""Fast mode is left for values beyond this."""
ROUNDED_PER_ENTRY = 8
"""Distinct rounded values per palette entry that fast mode needs.

With fewer, many partitions of the rounded values cost the same and those of the weights do not.
"""
MORE_DECIMALS = 2
"""How many decimals fast mode may add to have enough distinct values."""
FINEST = 24
"""Decimals of the smallest float16, 2**-24; rounding to more changes nothing."""


@lru_cache(maxsize=8)
def rounded_values(decimals: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The values that fast mode can meet, ascending, and which of them each float16 becomes.

    Rounded as coreai-opt does, in float32 and with no return to float16.

    Shapes: (distinct,), (65536,) by the bits of the float16.
    """
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves[~np.isfinite(halves)] = 0
    scale = np.float32(10.0 ** min(decimals, FINEST))
    with np.errstate(over="ignore"):
        values, rank = np.unique(np.round(halves * scale) / scale, return_inverse=True)
    return values.astype(np.float32), rank.astype(np.int32)


def rounded_points(
    points: NDArray[np.floating], masses: Floats, halves: NDArray[np.uint16] | None, decimals: int
) -> tuple[NDArray[np.float32], Floats]:
    """Rounded values of ascending points and the mass of each; `halves` are their float16 bits.

    Shapes: (n,), (n,), (n,) or None for those to be found -> (distinct,), (distinct,).
    """
    known, rank = rounded_values(decimals)
    if halves is None:
        halves = points.astype(np.float16).view(np.uint16)
    values, totals = np.empty(points.size, np.float32), np.empty(points.size)
    found = _merge(halves, masses, rank, known, values, totals)
    return values[:found], totals[:found]


@compiled
def _merge(
    halves: NDArray[np.uint16],
    masses: Floats,
    rank: NDArray[np.int32],
    known: NDArray[np.float32],
    values: NDArray[np.float32],
    totals: Floats,
) -> int:
    """Ascending halves of one rank are one value. Shapes: (n,) -> values, totals filled."""
    found, total, current = 0, 0.0, rank[halves[0]]
    for i in range(halves.size):
        at = rank[halves[i]]
        if at != current:
            values[found], totals[found] = known[current], total
            found, total, current = found + 1, 0.0, at
        total += masses[i]
    values[found], totals[found] = known[current], total
    return found + 1


def tally(
    values: NDArray[np.floating], mass: NDArray[np.floating] | None, decimals: int
) -> tuple[NDArray[np.float32], Floats]:
    """Distinct rounded values, ascending, and how often or how heavily each occurs.

    Shapes: values and mass (n,) -> (distinct,), (distinct,).
    """
    known, rank = rounded_values(decimals)
    ends = np.array([values.min(), values.max()]).astype(np.float16).view(np.uint16)
    first, last = rank[ends]
    totals = np.zeros(last - first + 1)
    halves = values.astype(np.float16).view(np.uint16)
    if mass is None:
        _count(halves, rank, first, totals)
    else:
        _weigh(halves, mass.astype(np.float64), rank, first, totals)
    present = np.flatnonzero(totals)
    return known[first : last + 1][present], totals[present]


@compiled
def _count(halves: NDArray[np.uint16], rank: NDArray[np.int32], first: int, totals: Floats) -> None:
    for i in range(halves.size):
        totals[rank[halves[i]] - first] += 1.0


@compiled
def _weigh(
    halves: NDArray[np.uint16], mass: Floats, rank: NDArray[np.int32], first: int, totals: Floats
) -> None:
    for i in range(halves.size):
        totals[rank[halves[i]] - first] += mass[i]
