"""Groups of two-byte weights by how often each bit pattern occurs.

With more values than patterns there is nothing to sort: one pass counts the patterns, and the
distinct values come out of the table in their order. Clustering, and the errors of a palette, need
no more than those; an index is looked up by the bits of its weight.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.errors import NonFiniteError
from palettery.kernels.float16 import CODES, infinity, values_of_codes
from palettery.kernels.jit import compiled, compiled_for_maxima, compiled_for_sums, compiled_inline
from palettery.kernels.scalar.scratch import Scratch
from palettery.kernels.source import Source

Floats = NDArray[np.float64]
Codes = NDArray[np.uint16]
Counts = NDArray[np.integer[Any]]

FEWEST_COUNTED: Final = 1 << 12
"""Values of a group from which walking over the table of all patterns is worth it."""
_STRIDE: Final = 64
_SIGN: Final = CODES // 2


class CodeCounts:
    """How often each pattern occurs in one group, counted in one pass over its rows, in lanes."""

    def __init__(self, lanes: int, weighted: bool) -> None:
        self.complete = False
        self._counts = np.zeros((lanes, CODES), np.int64)
        self._masses = np.zeros((lanes, CODES if weighted else 0))

    @staticmethod
    def size_bytes(lanes: int, weighted: bool) -> int:
        """What the tables take."""
        return 8 * CODES * (lanes + 1) * (1 + weighted)

    def add(self, lane: int, source: Source, group: int, rows: slice) -> None:
        """Count rows of a group."""
        one = range(group, group + 1)
        codes, masses = source.codes(one, rows)[0], source.masses(one, rows)
        count(codes, self._counts[lane])
        if masses is not None:
            weigh(codes, masses[0], self._masses[lane])

    def end_pass(self) -> None:
        """Note that one pass was enough."""
        self.complete = True

    def points(
        self, dtype: np.dtype[Any], scratch: Scratch
    ) -> tuple[NDArray[np.float32], Floats, Codes]:
        """As `points_of`."""
        return points_of(self._counts.sum(axis=0), self._masses.sum(axis=0), dtype, scratch)


def points_of(
    counts: Counts, masses: Floats, dtype: np.dtype[Any], scratch: Scratch
) -> tuple[NDArray[np.float32], Floats, Codes]:
    """Distinct values that occur, ascending, with the mass and the bits of each.

    The masses are the counts where `masses` is empty or nothing has any. The tables are emptied.

    Shapes: counts (65536,), masses (65536,) or (0,) -> three of (distinct,), in the scratch.

    Raises:
        NonFiniteError: a pattern that occurs is NaN or infinite.
    """
    top = infinity(dtype)
    if counts[top:_SIGN].any() or counts[_SIGN + top :].any():
        raise NonFiniteError
    if masses.size and not masses.any():
        masses = masses[:0]
    points, weights, codes = scratch.points(CODES + 1)
    found = occupied(counts, masses, values_of_codes(dtype), points, weights, codes)
    if masses.size:
        weights[:found] /= weights[:found].max()
    return points[:found], weights[:found], codes[:found]


@compiled
def count(codes: Codes, counts: Counts) -> None:
    """Add one for each value to the place of its bits. Shapes: codes (n,), counts (65536,)."""
    for i in range(codes.size):
        counts[codes[i]] += 1


@compiled
def weigh(codes: Codes, mass: Floats, masses: Floats) -> None:
    """Add the mass of each value to the place of its bits."""
    for i in range(codes.size):
        masses[codes[i]] += mass[i]


@compiled_inline
def _code(place: int) -> int:
    """The bits of the value at a place of the order: negative ones fall, positive ones rise."""
    return CODES - 1 - place if place < _SIGN else place - _SIGN


@compiled
def occupied(
    counts: Counts,
    masses: Floats,
    values: NDArray[np.float32],
    points: NDArray[np.float32],
    weights: Floats,
    codes: Codes,
) -> int:
    """Gather what occurs in ascending order and empty the tables; returns how many there are.

    Zeros of both signs are one value.

    Shapes: counts, values (65536,), masses likewise or (0,) -> points, weights, codes filled.
    """
    counts[0] += counts[_SIGN]
    counts[_SIGN] = 0
    if masses.size:
        masses[0] += masses[_SIGN]
        masses[_SIGN] = 0.0
    found = np.uint64(0)
    for start in range(0, CODES, _STRIDE):
        first = min(_code(start), _code(start + _STRIDE - 1))
        some = counts[first : first + _STRIDE]
        if not _any(some):
            continue
        weighed = masses[first : first + _STRIDE] if masses.size else masses
        for i in range(_STRIDE):
            at = np.uint64(_STRIDE - 1 - i if start < _SIGN else i)
            code = np.uint64(first) + at
            weight = weighed[at] if weighed.size else float(some[at])
            points[found], weights[found], codes[found] = values[code], weight, code
            found += np.uint64(weight > 0)
        some[:] = 0
        weighed[:] = 0.0
    return int(found)


@compiled_inline
def _any(counts: Counts) -> bool:
    together = 0
    for i in range(counts.size):
        together |= counts[i]
    return bool(together > 0)


@compiled
def first_places(
    thresholds: NDArray[np.float32], values: NDArray[np.float32], top: int
) -> NDArray[np.int64]:
    """Where in the order of all values each cell begins, and where the last one ends.

    Finite values only: `top` are the bits of infinity.

    Shapes: thresholds, the smallest values of all cells but the first, (K-1,), values (65536,)
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
    """The bits of the values at places from start to end: of the negative ones, of the others."""
    middle = max(start, min(end, _SIGN))
    return (CODES - middle, CODES - start), (middle - _SIGN, end - _SIGN)


@compiled
def look_up_cells(
    codes: Codes, starts: NDArray[np.int64], cells: NDArray[np.uint8], counts: Counts
) -> None:
    """Fill cells (n,) by the bits of finite values, and count the bits on the way.

    Shapes: starts as `first_places` finds them.
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
    """Sum of squared errors, sum of squares and largest error of what was counted.

    Adds to the cells' occupancy, and empties the counts.

    Shapes: counts, values (65536,), starts (K+1,), lut, occupancy (K,).
    """
    sse = signal = most = 0.0
    for cell in range(lut.size):
        for begin, end in _ranges(starts[cell], starts[cell + 1]):
            for first in range(begin, end, _STRIDE):
                last = min(first + _STRIDE, end)
                some = counts[first:last]
                if _any(some):
                    found = _measure(some, values[first:last], np.float64(lut[cell]))
                    sse, signal = sse + found[0], signal + found[1]
                    occupancy[cell] += found[2]
                    most = max(most, _farthest(some, values[first:last], np.float64(lut[cell])))
                    some[:] = 0
    return sse, signal, most


@compiled_for_sums
def _measure(
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
