"""Groups too large to sort in bounded memory: weighted means of fine bins instead of values.

A float32's bits, with the sign folded in, order as its value does: the key. The upper half of the
key counts the values in 65,536 coarse bins. Each of those is then halved as often as its share of
the integral of density^(1/3) asks for, and a second pass sums the values of every fine bin. Bins
are so much finer than cells that clustering their means costs a share of about 1e-7 in error.

That holds for values that fill their bins. A few values that repeat do not, so as long as there
are few distinct ones the first pass tabulates them as well, and they take the place of the bins.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from kernels.errors import NonFiniteError
from kernels.jit import compiled
from kernels.scalar.distinct import DistinctValues
from kernels.scalar.sorting import key_of
from kernels.source import Source

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BINS_PER_ENTRY, MOST_BINS = 1 << 11, 1 << 18
_COARSE = 1 << 16
_NO_MASS = np.empty(0)


class Bins:
    """The bins of one group, filled in two passes over its rows, in lanes that do not share.

    Few distinct values take only the first pass.
    """

    def __init__(self, k: int, lanes: int, weighted: bool) -> None:
        self._most = min(BINS_PER_ENTRY * k, MOST_BINS)
        self._weighted = weighted
        self._coarse = np.zeros((lanes, 1 + weighted, _COARSE))
        self._first, self._shift = np.empty(0, np.int64), np.empty(0, np.int64)
        self._fine = np.empty((lanes, 0, 2))
        self._distinct = DistinctValues(lanes, weighted=weighted)
        self._few: tuple[Floats, Floats] | None = None
        self.complete = False

    @staticmethod
    def size_bytes(k: int, lanes: int, weighted: bool) -> int:
        """What the tables take at most, about."""
        most = min(BINS_PER_ENTRY * k, MOST_BINS)
        bins = 8 * (_COARSE * (lanes * (1 + weighted) + 2) + 2 * most * (lanes + 1))
        return bins + DistinctValues.size_bytes(lanes, weighted)

    def add(self, lane: int, source: Source, group: int, rows: slice) -> None:
        """Count rows of a group, or in the second pass sum them up."""
        one = range(group, group + 1)
        values, masses = source.entries(one, rows)[0], source.masses(one, rows)
        mass = _NO_MASS if masses is None or not self._weighted else masses[0]
        if self._first.size:
            _add_fine(values, mass, self._first, self._shift, self._fine[lane])
            return
        self._distinct.add(lane, values, mass)
        _add_coarse(values, _NO_MASS, self._coarse[lane, 0])
        if mass.size:
            _add_coarse(values, mass, self._coarse[lane, 1])

    def end_pass(self) -> None:
        """Cut the coarse bins into fine ones after the first pass, unless there are few values.

        Raises:
            NonFiniteError: a value is NaN or infinite.
        """
        if self._first.size:
            self.complete = True
            return
        counts, coarse = self._coarse.sum(axis=0)[[0, -1]]
        if not np.isfinite(_coarse_widths()[counts > 0]).all():
            raise NonFiniteError
        self._few = self._distinct.points()
        if self._few is not None:
            self.complete = True
            return
        if not coarse.any():
            self._weighted, coarse = False, counts  # nothing matters, so all matters alike
        self._first, self._shift = _fine_bins(coarse, self._most)
        self._fine = np.zeros((len(self._fine), self._first[-1], 2))

    def points(self, *_: object) -> tuple[Floats, Floats, None]:
        """Ascending means of the occupied bins, or the distinct values if those are few; masses.

        They have no bits of their own.
        """
        if self._few is not None:
            return *self._few, None
        mass, moment = self._fine.sum(axis=0).T
        present = mass > 0
        return moment[present] / mass[present], mass[present] / mass.max(), None


def _fine_bins(coarse: Floats, most: int) -> tuple[Integers, Integers]:
    """First fine bin of every coarse bin, and the bits of the key's lower half to drop in it.

    Shapes: masses (65536,) -> (65537,), (65536,).
    """
    occupied = np.flatnonzero(coarse)
    width = _coarse_widths()[occupied]
    measure = np.cbrt(coarse[occupied] * (width / width.max()) ** 2)
    wanted = measure / measure.sum() * (most / 2)
    bits = np.clip(np.ceil(np.log2(np.maximum(wanted, 1))), 0, 16).astype(np.int64)
    count, shift = np.zeros(_COARSE, np.int64), np.zeros(_COARSE, np.int64)
    count[occupied], shift[occupied] = 1 << bits, 16 - bits
    return np.concatenate(([0], np.cumsum(count))), shift


@cache
def _coarse_widths() -> Floats:
    """How far apart the values of each coarse bin may lie; infinite for those that are none."""
    upper = np.arange(1 << 16, dtype=np.uint32)
    edges = _values_of_keys(np.append(upper << np.uint32(16), np.uint32(0xFFFFFFFF)))
    finite = np.isfinite(edges[1:]) & np.isfinite(edges[:-1])
    numbers = np.where(np.isfinite(edges), edges, 0).astype(np.float64)
    return np.where(finite, np.diff(numbers), np.inf)


def _values_of_keys(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    negative = keys < np.uint32(1 << 31)
    bits = np.where(negative, ~keys, keys ^ np.uint32(1 << 31)).astype(np.uint32)
    bits[(bits & 0x7F800000) == 0x7F800000] = 0x7F800000  # NaN and infinities alike
    return bits.view(np.float32)


@compiled
def _add_coarse(values: NDArray[np.float32], mass: Floats, masses: Floats) -> None:
    bits = values.view(np.uint32)
    for i in range(bits.size):
        key = key_of(bits[i])
        masses[key >> np.uint32(16)] += mass[i] if mass.size else 1.0


@compiled
def _add_fine(
    values: NDArray[np.float32], mass: Floats, first: Integers, shift: Integers, sums: Floats
) -> None:
    bits = values.view(np.uint32)
    for i in range(bits.size):
        key = key_of(bits[i])
        upper = key >> np.uint32(16)
        at = first[upper] + (np.int64(key & np.uint32(0xFFFF)) >> shift[upper])
        w = mass[i] if mass.size else 1.0
        sums[at, 0] += w
        sums[at, 1] += w * values[i]
