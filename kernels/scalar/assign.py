"""Assignment of values to the nearest entry of an ascending palette, and its errors."""

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled, compiled_for_sums, compiled_inline

Floats = NDArray[np.float64]

MOST_BUCKETS = 4096
MOST_STEPS = 4
"""Most thresholds in one bucket that are tried one by one; with more, binary search is used."""


def cell_thresholds(lut: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the smallest value of each cell except the first, in the LUT's dtype.

    A value belongs to the upper cell if it is at least the midpoint. The midpoint is rounded up to
    the dtype, so comparisons in the dtype are exact.

    Shapes: ascending float32 or float64 (..., K) -> (..., K-1).
    """
    low, high = lut[..., :-1], lut[..., 1:]
    middle = low.astype(np.float64) + (high.astype(np.float64) - low) / 2
    rounded = middle.astype(lut.dtype)
    return np.where(rounded < middle, np.nextafter(rounded, np.inf, dtype=lut.dtype), rounded)


@compiled
def assign(
    values: NDArray[np.floating], thresholds: NDArray[np.floating], cells: NDArray[np.uint8]
) -> None:
    """Fill `cells` with the index of the palette cell of each value.

    Shapes: values (n,), thresholds (K-1,) ascending -> cells (n,) filled.
    Source: nearest-centroid cells in 1-D are intervals cut at centroid midpoints (Lloyd 1982).
    """
    buckets = min(max(values.size // 8, 16), MOST_BUCKETS)
    low, high = thresholds[0], thresholds[-1]
    per_unit = values.dtype.type(buckets - 1) / (high - low)
    starts = np.zeros(buckets + 1, np.uint8)
    steps = _fill_starts(thresholds, low, per_unit, starts)
    if steps > MOST_STEPS or not np.isfinite(per_unit):
        _search(values, thresholds, cells)
        return
    ends = np.append(thresholds, np.array([np.inf], thresholds.dtype))
    for i in range(values.size):
        value = values[i]
        cell = starts[_bucket(value, low, per_unit, buckets)]
        for _ in range(steps):
            cell += np.uint8(value >= ends[cell])
        cells[i] = cell


@compiled_inline
def _bucket(value: float, low: float, per_unit: float, buckets: int) -> int:
    """Return which of `buckets` equal parts contains a value; monotone in spite of rounding."""
    place = (value - low) * per_unit
    place = place if place > 0 else per_unit - per_unit  # zero of the same dtype
    return int(place) if place < buckets else buckets - 1


@compiled
def _fill_starts(
    thresholds: NDArray[np.floating], low: float, per_unit: float, starts: NDArray[np.uint8]
) -> int:
    """Fill the number of thresholds below each bucket; return the most thresholds in one bucket.

    Shapes: starts (buckets + 1,), of which the last is unused.
    """
    buckets = starts.size - 1
    inside, most, at = 0, 0, -1
    for j in range(thresholds.size):
        bucket = _bucket(thresholds[j], low, per_unit, buckets)
        inside = inside + 1 if bucket == at else 1
        most, at = max(most, inside), bucket
        starts[bucket + 1] = j + 1
    for bucket in range(1, buckets + 1):
        starts[bucket] = max(starts[bucket], starts[bucket - 1])
    return most


@compiled
def _search(
    values: NDArray[np.floating], thresholds: NDArray[np.floating], cells: NDArray[np.uint8]
) -> None:
    """Assign by binary search, for thresholds too uneven for buckets; K is a power of two."""
    half = (thresholds.size + 1) // 2
    for i in range(values.size):
        cell, step = 0, half
        while step:
            cell = cell + step if values[i] >= thresholds[cell + step - 1] else cell
            step //= 2
        cells[i] = cell


@compiled_for_sums
def measure_errors(
    values: NDArray[np.floating],
    cells: NDArray[np.uint8],
    lut: NDArray[np.floating],
    occupancy: NDArray[np.int64],
) -> tuple[float, float, float]:
    """Return sum of squared errors, sum of squares, largest error; add to the cells' occupancy.

    Shapes: values, cells (n,), lut, occupancy (K,).
    """
    sse = signal = most = 0.0
    for i in range(values.size):
        value = np.float64(values[i])
        error = value - np.float64(lut[cells[i]])
        sse += error * error
        signal += value * value
        most = max(most, abs(error))
    counts = np.zeros((4, lut.size), np.int32)
    for i in range(values.size):
        counts[i & 3, cells[i]] += 1
    for j in range(lut.size):
        occupancy[j] += counts[0, j] + counts[1, j] + counts[2, j] + counts[3, j]
    return sse, signal, most
