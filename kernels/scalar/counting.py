"""Histograms of two-byte weights: how often each of the 65,536 bit patterns (codes) occurs.

Instead of sorting the values, one pass counts the codes, and the distinct values are read from the
table in ascending order. These suffice for clustering and for the errors of a palette. The index of
a weight is looked up by its code. The rank of a code is its position among all codes by value.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.errors import NonFiniteError
from palettery.kernels.float16 import CODES, code_values, infinity_code
from palettery.kernels.jit import compiled, compiled_for_maxima, compiled_for_sums, compiled_inline
from palettery.kernels.scalar.scratch_buffers import ScratchBuffers
from palettery.kernels.weight_reader import WeightReader

Floats = NDArray[np.float64]
Codes = NDArray[np.uint16]
Counts = NDArray[np.integer[Any]]

MIN_COUNTED_ELEMENTS: Final = 1 << 12
"""Group size from which counting codes is faster than sorting values."""
_CHUNK_CODES: Final = 64
_SIGN_BIT: Final = CODES // 2


class CodeCounts:
    """Counts of each code in one group, from one pass over its rows, with tables for each lane."""

    def __init__(self, lanes: int, weighted: bool) -> None:
        self.complete = False
        self._counts = np.zeros((lanes, CODES), np.int64)
        self._masses = np.zeros((lanes, CODES if weighted else 0))

    @staticmethod
    def size_bytes(lanes: int, weighted: bool) -> int:
        """Return the size of the tables."""
        return 8 * CODES * (lanes + 1) * (1 + weighted)

    def add(self, lane: int, reader: WeightReader, group: int, rows: slice) -> None:
        """Count the codes of some rows of a group."""
        group_range = range(group, group + 1)
        codes, masses = reader.codes(group_range, rows)[0], reader.masses(group_range, rows)
        count_codes(codes, self._counts[lane])
        if masses is not None:
            add_masses(codes, masses[0], self._masses[lane])

    def end_pass(self) -> None:
        """Mark the table as complete: one pass is enough."""
        self.complete = True

    def points(
        self, dtype: np.dtype[Any], scratch: ScratchBuffers
    ) -> tuple[NDArray[np.float32], Floats, Codes]:
        """Return distinct values, masses and codes; see `distinct_points`."""
        return distinct_points(self._counts.sum(axis=0), self._masses.sum(axis=0), dtype, scratch)


def distinct_points(
    counts: Counts, masses: Floats, dtype: np.dtype[Any], scratch: ScratchBuffers
) -> tuple[NDArray[np.float32], Floats, Codes]:
    """Return the distinct values, ascending, with the mass and the code of each.

    The masses are the counts if `masses` is empty or all zero. The tables are reset to zero.

    Shapes: counts (65536,), masses (65536,) or (0,) -> three of (distinct,), in the scratch.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    infinity = infinity_code(dtype)
    if counts[infinity:_SIGN_BIT].any() or counts[_SIGN_BIT + infinity :].any():
        raise NonFiniteError
    if masses.size and not masses.any():
        masses = masses[:0]
    points, weights, codes = scratch.points(CODES + 1)
    size = extract_distinct(counts, masses, code_values(dtype), points, weights, codes)
    if masses.size:
        weights[:size] /= weights[:size].max()
    return points[:size], weights[:size], codes[:size]


@compiled
def count_codes(codes: Codes, counts: Counts) -> None:
    """Count every code. Shapes: codes (n,), counts (65536,)."""
    for i in range(codes.size):
        counts[codes[i]] += 1


@compiled
def add_masses(codes: Codes, mass: Floats, masses: Floats) -> None:
    """Add the mass of each value to the total of its code. Shapes: (n,), (n,), (65536,)."""
    for i in range(codes.size):
        masses[codes[i]] += mass[i]


@compiled_inline
def _code_of_rank(rank: int) -> int:
    """Return the code at a rank; codes of negative values descend as values ascend."""
    return CODES - 1 - rank if rank < _SIGN_BIT else rank - _SIGN_BIT


@compiled
def extract_distinct(
    counts: Counts,
    masses: Floats,
    values: NDArray[np.float32],
    points: NDArray[np.float32],
    weights: Floats,
    codes: Codes,
) -> int:
    """Fill points, weights and codes of the codes that occur, ascending; return their number.

    Zeros of both signs are one value. Resets the tables to zero.

    Shapes: counts, values (65536,), masses likewise or (0,) -> points, weights, codes filled.
    """
    counts[0] += counts[_SIGN_BIT]
    counts[_SIGN_BIT] = 0
    if masses.size:
        masses[0] += masses[_SIGN_BIT]
        masses[_SIGN_BIT] = 0.0
    count = np.uint64(0)
    for start in range(0, CODES, _CHUNK_CODES):
        first = min(_code_of_rank(start), _code_of_rank(start + _CHUNK_CODES - 1))
        chunk = counts[first : first + _CHUNK_CODES]
        if not _any_positive(chunk):
            continue
        chunk_masses = masses[first : first + _CHUNK_CODES] if masses.size else masses
        for i in range(_CHUNK_CODES):
            offset = np.uint64(_CHUNK_CODES - 1 - i if start < _SIGN_BIT else i)
            code = np.uint64(first) + offset
            weight = chunk_masses[offset] if chunk_masses.size else float(chunk[offset])
            points[count], weights[count], codes[count] = values[code], weight, code
            count += np.uint64(weight > 0)
        chunk[:] = 0
        chunk_masses[:] = 0.0
    return int(count)


@compiled_inline
def _any_positive(counts: Counts) -> bool:
    combined = 0
    for i in range(counts.size):
        combined |= counts[i]
    return bool(combined > 0)


@compiled
def cell_starts(
    thresholds: NDArray[np.float32], values: NDArray[np.float32], infinity: int
) -> NDArray[np.int64]:
    """Return the rank at which each cell begins, and at which the last one ends.

    Cells contain only finite values: `infinity` is the code of infinity.

    Shapes: thresholds (K-1,), the smallest values of all cells except the first, values (65536,)
        -> (K+1,).
    """
    starts = np.empty(thresholds.size + 2, np.int64)
    starts[0], starts[-1] = _SIGN_BIT - infinity, _SIGN_BIT + infinity
    for cell in range(thresholds.size):
        low, high = starts[cell], starts[-1]
        while low < high:
            middle = (low + high) // 2
            if values[_code_of_rank(middle)] >= thresholds[cell]:
                high = middle
            else:
                low = middle + 1
        starts[cell + 1] = low
    return starts


@compiled_inline
def _code_ranges(start: int, end: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the two ranges of codes with ranks from start to end: of negative and other values."""
    middle = max(start, min(end, _SIGN_BIT))
    return (CODES - middle, CODES - start), (middle - _SIGN_BIT, end - _SIGN_BIT)


@compiled
def assign_codes(
    codes: Codes, starts: NDArray[np.int64], cells: NDArray[np.uint8], counts: Counts
) -> None:
    """Fill cells (n,) by the codes of finite values, and count the codes.

    Shapes: starts (K+1,) from `cell_starts`.
    """
    cell_of_code = np.empty(CODES, np.uint8)
    for cell in range(starts.size - 1):
        for first, last in _code_ranges(starts[cell], starts[cell + 1]):
            cell_of_code[first:last] = np.uint8(cell)
    for i in range(codes.size):
        code = codes[i]
        cells[i] = cell_of_code[code]
        counts[code] += 1


@compiled
def measure_counts(
    counts: Counts,
    starts: NDArray[np.int64],
    values: NDArray[np.float32],
    lut: NDArray[np.float32],
    occupancy: NDArray[np.int64],
) -> tuple[float, float, float]:
    """Return sum of squared errors, sum of squares and largest error of the counted codes.

    Adds to the cells' occupancy and resets the counts to zero.

    Shapes: counts, values (65536,), starts (K+1,), lut, occupancy (K,).
    """
    sse = signal = max_error = 0.0
    for cell in range(lut.size):
        for begin, end in _code_ranges(starts[cell], starts[cell + 1]):
            for first in range(begin, end, _CHUNK_CODES):
                last = min(first + _CHUNK_CODES, end)
                chunk = counts[first:last]
                if _any_positive(chunk):
                    sums = _sum_errors(chunk, values[first:last], np.float64(lut[cell]))
                    sse, signal = sse + sums[0], signal + sums[1]
                    occupancy[cell] += sums[2]
                    max_error = max(
                        max_error, _largest_error(chunk, values[first:last], np.float64(lut[cell]))
                    )
                    chunk[:] = 0
    return sse, signal, max_error


@compiled_for_sums
def _sum_errors(
    counts: Counts, values: NDArray[np.float32], entry: float
) -> tuple[float, float, np.int64]:
    sse = signal = 0.0
    occupancy = np.int64(0)
    for i in range(counts.size):
        count, value = np.float64(counts[i]), np.float64(values[i])
        error = value - entry
        sse += count * (error * error)
        signal += count * (value * value)
        occupancy += np.int64(counts[i])
    return sse, signal, occupancy


@compiled_for_maxima
def _largest_error(counts: Counts, values: NDArray[np.float32], entry: float) -> float:
    max_error = 0.0
    for i in range(counts.size):
        error = abs(np.float64(values[i]) - entry)
        max_error = max(max_error, error if counts[i] > 0 else 0.0)
    return max_error
