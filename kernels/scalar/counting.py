"""Counting of codes: groups of two-byte weights by how often each of the 65,536 codes occurs.

Instead of sorting the values, one pass counts the codes, and the distinct values are read from the
table in ascending order. Clustering and the errors of a palette need only those. The index of a
weight is looked up by its code.
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

FEWEST_COUNTED: Final = 1 << 12
"""Group size from which counting codes is faster than sorting values."""
_STRIDE: Final = 64
_SIGN: Final = CODES // 2


class CodeCounts:
    """Counts of each code in one group, from one pass over its rows, with a table for each lane."""

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
        one = range(group, group + 1)
        codes, masses = reader.codes(one, rows)[0], reader.masses(one, rows)
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
    top = infinity_code(dtype)
    if counts[top:_SIGN].any() or counts[_SIGN + top :].any():
        raise NonFiniteError
    if masses.size and not masses.any():
        masses = masses[:0]
    points, weights, codes = scratch.points(CODES + 1)
    size = collect_distinct(counts, masses, code_values(dtype), points, weights, codes)
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
def _code(rank: int) -> int:
    """Return the code of the value at a rank; codes of negative values fall with the rank."""
    return CODES - 1 - rank if rank < _SIGN else rank - _SIGN


@compiled
def collect_distinct(
    counts: Counts,
    masses: Floats,
    values: NDArray[np.float32],
    points: NDArray[np.float32],
    weights: Floats,
    codes: Codes,
) -> int:
    """Collect the codes that occur, ascending by value; reset the tables; return their number.

    Zeros of both signs are one value.

    Shapes: counts, values (65536,), masses likewise or (0,) -> points, weights, codes filled.
    """
    counts[0] += counts[_SIGN]
    counts[_SIGN] = 0
    if masses.size:
        masses[0] += masses[_SIGN]
        masses[_SIGN] = 0.0
    size = np.uint64(0)
    for start in range(0, CODES, _STRIDE):
        first = min(_code(start), _code(start + _STRIDE - 1))
        some = counts[first : first + _STRIDE]
        if not _any(some):
            continue
        some_masses = masses[first : first + _STRIDE] if masses.size else masses
        for i in range(_STRIDE):
            at = np.uint64(_STRIDE - 1 - i if start < _SIGN else i)
            code = np.uint64(first) + at
            weight = some_masses[at] if some_masses.size else float(some[at])
            points[size], weights[size], codes[size] = values[code], weight, code
            size += np.uint64(weight > 0)
        some[:] = 0
        some_masses[:] = 0.0
    return int(size)


@compiled_inline
def _any(counts: Counts) -> bool:
    together = 0
    for i in range(counts.size):
        together |= counts[i]
    return bool(together > 0)


@compiled
def cell_starts(
    thresholds: NDArray[np.float32], values: NDArray[np.float32], top: int
) -> NDArray[np.int64]:
    """Return the rank, among all values, at which each cell begins, and where the last one ends.

    Only finite values count: `top` is the code of infinity.

    Shapes: thresholds (K-1,), the smallest values of all cells except the first, values (65536,)
        -> (K+1,).
    """
    starts = np.empty(thresholds.size + 2, np.int64)
    starts[0], starts[-1] = _SIGN - top, _SIGN + top
    for cell in range(thresholds.size):
        low, high = starts[cell], starts[-1]
        while low < high:
            middle = (low + high) // 2
            if values[_code(middle)] >= thresholds[cell]:
                high = middle
            else:
                low = middle + 1
        starts[cell + 1] = low
    return starts


@compiled_inline
def _ranges(start: int, end: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the two code ranges of the values ranked from start to end: negative, then others."""
    middle = max(start, min(end, _SIGN))
    return (CODES - middle, CODES - start), (middle - _SIGN, end - _SIGN)


@compiled
def assign_codes(
    codes: Codes, starts: NDArray[np.int64], cells: NDArray[np.uint8], counts: Counts
) -> None:
    """Fill cells (n,) by the codes of finite values, and count the codes.

    Shapes: starts (K+1,) from `cell_starts`.
    """
    table = np.empty(CODES, np.uint8)
    for cell in range(starts.size - 1):
        for first, last in _ranges(starts[cell], starts[cell + 1]):
            table[first:last] = np.uint8(cell)
    for i in range(codes.size):
        code = codes[i]
        cells[i] = table[code]
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
    sse = signal = most = 0.0
    for cell in range(lut.size):
        for begin, end in _ranges(starts[cell], starts[cell + 1]):
            for first in range(begin, end, _STRIDE):
                last = min(first + _STRIDE, end)
                some = counts[first:last]
                if _any(some):
                    part = _measure_errors(some, values[first:last], np.float64(lut[cell]))
                    sse, signal = sse + part[0], signal + part[1]
                    occupancy[cell] += part[2]
                    most = max(most, _farthest(some, values[first:last], np.float64(lut[cell])))
                    some[:] = 0
    return sse, signal, most


@compiled_for_sums
def _measure_errors(
    counts: Counts, values: NDArray[np.float32], entry: float
) -> tuple[float, float, np.int64]:
    sse = signal = 0.0
    total = np.int64(0)
    for i in range(counts.size):
        times, value = np.float64(counts[i]), np.float64(values[i])
        error = value - entry
        sse += times * (error * error)
        signal += times * (value * value)
        total += np.int64(counts[i])
    return sse, signal, total


@compiled_for_maxima
def _farthest(counts: Counts, values: NDArray[np.float32], entry: float) -> float:
    most = 0.0
    for i in range(counts.size):
        error = abs(np.float64(values[i]) - entry)
        most = max(most, error if counts[i] > 0 else 0.0)
    return most
