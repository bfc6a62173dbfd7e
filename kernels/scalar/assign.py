"""Assignment of values to the nearest entries of an ascending palette, and the resulting errors."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled, compiled_for_maxima, compiled_for_sums, compiled_inline

Floats = NDArray[np.float64]

MAX_COMPARED_THRESHOLDS: Final = 15
"""Most thresholds for which each value is compared with all of them, by vector instructions."""
_BLOCK: Final = 256
_LANES: Final = 16  # number of independent maxima, so that vector instructions can be used
MAX_BUCKETS = 4096
MAX_BUCKET_THRESHOLDS = 4
"""Most thresholds in one bucket that are compared one by one; with more, binary search is used."""


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
    if thresholds.size <= MAX_COMPARED_THRESHOLDS:
        _assign_by_comparison(values, thresholds, cells)
        return
    buckets = min(max(values.size // 8, 16), MAX_BUCKETS)
    lowest, highest = thresholds[0], thresholds[-1]
    per_unit = values.dtype.type(buckets - 1) / (highest - lowest)
    starts = np.zeros(buckets + 1, np.uint8)
    steps = _count_below_buckets(thresholds, lowest, per_unit, starts)
    if steps > MAX_BUCKET_THRESHOLDS or not np.isfinite(per_unit):
        _assign_by_search(values, thresholds, cells)
        return
    upper_ends = np.append(thresholds, np.array([np.inf], thresholds.dtype))
    for i in range(values.size):
        value = values[i]
        cell = starts[_bucket(value, lowest, per_unit, buckets)]
        for _ in range(steps):
            cell += np.uint8(value >= upper_ends[cell])
        cells[i] = cell


@compiled
def _assign_by_comparison(
    values: NDArray[np.floating], thresholds: NDArray[np.floating], cells: NDArray[np.uint8]
) -> None:
    """Assign by counting the thresholds that do not exceed a value."""
    for start in range(0, values.size, _BLOCK):
        block, block_cells = values[start : start + _BLOCK], cells[start : start + _BLOCK]
        for i in range(block.size):
            block_cells[i] = np.uint8(0)
        for j in range(thresholds.size):
            threshold = thresholds[j]
            for i in range(block.size):
                block_cells[i] += np.uint8(block[i] >= threshold)


@compiled_inline
def _bucket(value: float, low: float, per_unit: float, buckets: int) -> int:
    """Return which of `buckets` equal parts contains a value; monotone in spite of rounding."""
    position = (value - low) * per_unit
    position = position if position > 0 else per_unit - per_unit  # zero of the same dtype
    return int(position) if position < buckets else buckets - 1


@compiled
def _count_below_buckets(
    thresholds: NDArray[np.floating], low: float, per_unit: float, starts: NDArray[np.uint8]
) -> int:
    """Fill the number of thresholds below each bucket; return the most thresholds in one bucket.

    Shapes: starts (buckets + 1,), of which the last is unused.
    """
    buckets = starts.size - 1
    count, max_count, previous_bucket = 0, 0, -1
    for j in range(thresholds.size):
        bucket = _bucket(thresholds[j], low, per_unit, buckets)
        count = count + 1 if bucket == previous_bucket else 1
        max_count, previous_bucket = max(max_count, count), bucket
        starts[bucket + 1] = j + 1
    for bucket in range(1, buckets + 1):
        starts[bucket] = max(starts[bucket], starts[bucket - 1])
    return max_count


@compiled
def _assign_by_search(
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
    sse = signal = 0.0
    for i in range(values.size):
        value = np.float64(values[i])
        error = value - np.float64(lut[np.uint64(cells[i])])
        sse += error * error
        signal += value * value
    counts = np.zeros((4, lut.size), np.int32)
    for i in range(values.size):
        counts[i & 3, np.uint64(cells[i])] += 1
    for j in range(lut.size):
        occupancy[j] += counts[0, j] + counts[1, j] + counts[2, j] + counts[3, j]
    return sse, signal, _largest_error(values, cells, lut)


@compiled_for_maxima
def _largest_error(
    values: NDArray[np.floating], cells: NDArray[np.uint8], lut: NDArray[np.floating]
) -> float:
    max_error = np.zeros(_LANES)
    full = values.size // _LANES * _LANES
    for i in range(0, full, _LANES):
        for lane in range(_LANES):
            error = np.float64(values[i + lane]) - np.float64(lut[np.uint64(cells[i + lane])])
            max_error[lane] = max(max_error[lane], abs(error))
    for i in range(full, values.size):
        max_error[0] = max(
            max_error[0], abs(np.float64(values[i]) - np.float64(lut[np.uint64(cells[i])]))
        )
    return float(max_error.max())
