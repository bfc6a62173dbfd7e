"""Binning of groups too large to sort in bounded memory: bin means take the place of values.

The key of a float32 is its bits, transformed to compare like the value. The upper half of the key
counts the values in 65,536 coarse bins. Each coarse bin is then split into a power of two of fine
bins, by its share of the integral of density^(1/3), and a second pass sums the values of every fine
bin. Bins are much finer than cells, so clustering their means raises the error by about 1e-7 of it.

That holds for values that fill their bins. If they crowd into small parts of bins, a third pass
splits the fine bins again, by the sums of the second pass. The first pass also tabulates the
distinct values, and if they are few, they are used instead of bins.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.errors import NonFiniteError
from palettery.kernels.jit import compiled
from palettery.kernels.scalar.candidates import cube_roots
from palettery.kernels.scalar.distinct_values import DistinctValues
from palettery.kernels.scalar.sorting import key_of
from palettery.kernels.weight_reader import WeightReader

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BINS_PER_ENTRY, MIN_BINS, MAX_BINS = 1 << 11, 1 << 15, 1 << 18
MAX_UNEVENNESS = 8
"""Fine bins are split again if one has more than this multiple of its intended share."""
_COARSE = 1 << 16
_NO_MASS = np.empty(0)
_SMALLEST = float(np.finfo(np.float64).tiny)
BinLevel = tuple[Integers, Integers]
"""How bins are split: the first finer bin of every bin, and by how many bits the rest of a key is
shifted right to get the finer bin within it."""


class Bins:
    """Bins of one group, filled in passes over its rows, with separate tables for each lane.

    A group of few distinct values takes one pass, most groups take two, and those whose values
    crowd into few bins take three.
    """

    def __init__(self, k: int, lanes: int, weighted: bool) -> None:
        self._num_fine_bins = num_fine_bins(k)
        self._weighted = weighted
        self._coarse = np.zeros((lanes, 1 + weighted, _COARSE))
        self._levels: list[BinLevel] = []
        self._fine, self._sums = np.empty((lanes, 0, 2)), np.empty((0, 2))
        self._distinct = DistinctValues(lanes, weighted=weighted)
        self._distinct_points: tuple[Floats, Floats] | None = None
        self.complete = False

    @staticmethod
    def size_bytes(k: int, lanes: int, weighted: bool) -> int:
        """Return the approximate maximum size of the tables."""
        bins = 8 * (_COARSE * (lanes * (1 + weighted) + 2) + 4 * num_fine_bins(k) * (lanes + 1))
        return bins + DistinctValues.size_bytes(lanes, weighted)

    def add(self, lane: int, reader: WeightReader, group: int, rows: slice) -> None:
        """Count the values of some rows of a group; in later passes, sum them."""
        group_range = range(group, group + 1)
        values, masses = reader.entries(group_range, rows)[0], reader.masses(group_range, rows)
        mass = _NO_MASS if masses is None or not self._weighted else masses[0]
        if self._levels:
            first, *more = self._levels
            if more:
                _add_finer(values, mass, first, more[0], self._fine[lane])
            else:
                _add_fine(values, mass, first, self._fine[lane])
            return
        self._distinct.add(lane, values, mass)
        _add_coarse(values, _NO_MASS, self._coarse[lane, 0])
        if mass.size:
            _add_coarse(values, mass, self._coarse[lane, 1])

    def end_pass(self) -> None:
        """Split the bins, unless there are few distinct values or the bins are fine enough.

        Raises:
            NonFiniteError: a value is NaN or infinite.
        """
        if not self._levels:
            self._end_first_pass()
            return
        self._sums = self._fine.sum(axis=0)
        finer = self._finer_level() if len(self._levels) == 1 else None
        if finer is None:
            self.complete = True
        else:
            self._add_level(finer)

    def _end_first_pass(self) -> None:
        counts, coarse = self._coarse.sum(axis=0)[[0, -1]]
        widths = _coarse_widths()
        if not np.isfinite(widths[counts > 0]).all():
            raise NonFiniteError
        self._distinct_points = self._distinct.points()
        if self._distinct_points is not None:
            self.complete = True
            return
        if not coarse.any():
            self._weighted, coarse = False, counts  # all masses are zero: count equally
        depth = np.full(_COARSE, 16)
        self._add_level(
            _split_bins(_companding_measure(coarse, widths), self._num_fine_bins, depth)
        )

    def _finer_level(self) -> BinLevel | None:
        """Return how to split the fine bins; None if no bin far exceeds its intended share."""
        first, shift = self._levels[0]
        mass, single_mass = self._sums[:, 0], 0.0 if self._weighted else 1.0
        shares, max_share = _fine_shares(mass, first, shift, _coarse_widths(), single_mass)
        measure = cube_roots(shares)
        if np.cbrt(max_share) * self._num_fine_bins / 2 <= MAX_UNEVENNESS * measure.sum():
            return None
        depth = np.repeat(shift, np.diff(first))
        widths = np.repeat(_coarse_widths(), np.diff(first)) * 2.0 ** (depth - 16)
        return _split_bins(_companding_measure(mass, widths), self._num_fine_bins, depth)

    def _add_level(self, level: BinLevel) -> None:
        self._levels.append(level)
        self._fine = np.zeros((len(self._fine), level[0][-1], 2))

    def points(self, *_: object) -> tuple[Floats, Floats, None]:
        """Return ascending bin means, or the distinct values if few, and their masses; no codes."""
        if self._distinct_points is not None:
            return *self._distinct_points, None
        mass, moment = self._sums.T
        present = mass > 0
        return moment[present] / mass[present], mass[present] / mass.max(), None


def num_fine_bins(k: int) -> int:
    """Return the number of fine bins for k entries."""
    return min(max(BINS_PER_ENTRY * k, MIN_BINS), MAX_BINS)


def _companding_measure(mass: Floats, width: Floats) -> Floats:
    """Return each bin's integral of density^(1/3), up to a factor; zero for bins without mass."""
    occupied = np.flatnonzero(mass)
    widths, measure = width[occupied], np.zeros(mass.size)
    integral = np.cbrt(mass[occupied] * (widths / widths.max()) ** 2)
    measure[occupied] = np.maximum(integral, _SMALLEST)
    return measure


def _split_bins(measure: Floats, num_bins: int, depth: Integers) -> BinLevel:
    """Return how to split bins by their share of the measure, down to single values.

    Shapes: measure (n,), depth (n,): the number of key bits in which values of a bin differ.
    """
    occupied = np.flatnonzero(measure)
    occupied_measure = measure[occupied]
    bits = np.ceil(
        np.log2(np.maximum(occupied_measure / occupied_measure.sum() * (num_bins / 2), 1))
    ).astype(np.int64)
    bits = np.minimum(bits, depth[occupied])
    count, shift = np.zeros(measure.size, np.int64), depth.copy()
    count[occupied], shift[occupied] = 1 << bits, depth[occupied] - bits
    return np.concatenate(([0], np.cumsum(count))), shift


@cache
def _coarse_widths() -> Floats:
    """Return the width of each coarse bin; infinite for bins of infinities and NaN."""
    upper = np.arange(1 << 16, dtype=np.uint32)
    edges = _keys_to_values(np.append(upper << np.uint32(16), np.uint32(0xFFFFFFFF)))
    finite = np.isfinite(edges[1:]) & np.isfinite(edges[:-1])
    numbers = np.where(np.isfinite(edges), edges, 0).astype(np.float64)
    return np.where(finite, np.diff(numbers), np.inf)


def _keys_to_values(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    negative = keys < np.uint32(1 << 31)
    bits = np.where(negative, ~keys, keys ^ np.uint32(1 << 31)).astype(np.uint32)
    bits[(bits & 0x7F800000) == 0x7F800000] = 0x7F800000  # NaN and infinities alike
    return bits.view(np.float32)


@compiled
def _fine_shares(
    mass: Floats, first: Integers, shift: Integers, widths: Floats, single_mass: float
) -> tuple[Floats, float]:
    """Return mass times squared width of every fine bin, and the maximum over divisible bins.

    A bin is divisible if its values can differ and its mass exceeds `single_mass`, that of one
    value. Widths are relative to the widest bin.

    Shapes: mass (bins,), first (65537,), shift and widths (65536,) -> (bins,).
    """
    widest = 0.0
    for upper in range(shift.size):
        if first[upper + 1] > first[upper]:
            widest = max(widest, widths[upper])
    shares, max_share = np.zeros(mass.size), 0.0
    for upper in range(shift.size):
        if first[upper + 1] > first[upper]:
            width = widths[upper] / widest * 2.0 ** (shift[upper] - 16)
            for fine_bin in range(first[upper], first[upper + 1]):
                shares[fine_bin] = mass[fine_bin] * width * width
                if shift[upper] > 0 and mass[fine_bin] > single_mass:
                    max_share = max(max_share, shares[fine_bin])
    return shares, max_share


@compiled
def _add_coarse(values: NDArray[np.float32], mass: Floats, masses: Floats) -> None:
    bits = values.view(np.uint32)
    for i in range(bits.size):
        key = key_of(bits[i])
        masses[key >> np.uint32(16)] += mass[i] if mass.size else 1.0


@compiled
def _add_fine(values: NDArray[np.float32], mass: Floats, level: BinLevel, sums: Floats) -> None:
    first, shift = level
    bits = values.view(np.uint32)
    for i in range(bits.size):
        key = key_of(bits[i])
        upper = key >> np.uint32(16)
        fine_bin = first[upper] + (np.int64(key & np.uint32(0xFFFF)) >> shift[upper])
        w = mass[i] if mass.size else 1.0
        sums[fine_bin, 0] += w
        sums[fine_bin, 1] += w * values[i]


@compiled
def _add_finer(
    values: NDArray[np.float32], mass: Floats, level: BinLevel, finer: BinLevel, sums: Floats
) -> None:
    first, shift = level
    finer_first, finer_shift = finer
    bits = values.view(np.uint32)
    for i in range(bits.size):
        key = key_of(bits[i])
        upper, lower = key >> np.uint32(16), np.int64(key & np.uint32(0xFFFF))
        fine_bin = first[upper] + (lower >> shift[upper])
        rest = lower & ((np.int64(1) << shift[upper]) - 1)
        fine_bin = finer_first[fine_bin] + (rest >> finer_shift[fine_bin])
        w = mass[i] if mass.size else 1.0
        sums[fine_bin, 0] += w
        sums[fine_bin, 1] += w * values[i]
