"""Groups too large to sort in bounded memory: weighted means of fine bins instead of values.

A float32's bits, with the sign folded in, order as its value does: the key. The upper half of the
key counts the values in 65,536 coarse bins. Each of those is then halved as often as its share of
the integral of density^(1/3) asks for, and a second pass sums the values of every fine bin. Bins
are so much finer than cells that clustering their means costs a share of about 1e-7 in error.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kernels.errors import NonFiniteError
from kernels.jit import compiled
from kernels.scalar.sorting import key_of
from kernels.threads import spread

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Read = Callable[[slice], tuple[NDArray[np.float32], Floats]]
"""Values of a piece of the group, and their masses or none."""

BINS_PER_ENTRY, MOST_BINS = 1 << 11, 1 << 18
LANES = 4
"""Tables summed side by side; fixed, so that sums do not depend on the number of threads."""


def binned(
    read: Read, pieces: Sequence[slice], k: int, threads: int | None
) -> tuple[NDArray[np.float64], Floats]:
    """Ascending means of the occupied bins and their masses, for a palette of k entries.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    lanes = [pieces[lane::LANES] for lane in range(LANES)]

    def count(lane: Sequence[slice]) -> Floats:
        masses = np.zeros(1 << 16)
        for piece in lane:
            _add_coarse(*read(piece), masses)
        return masses

    coarse = np.sum(spread(count, lanes, threads), axis=0)
    first, shift = _fine_bins(coarse, min(BINS_PER_ENTRY * k, MOST_BINS))

    def add(lane: Sequence[slice]) -> Floats:
        sums = np.zeros((first[-1], 2))
        for piece in lane:
            _add_fine(*read(piece), first, shift, sums)
        return sums

    mass, moment = np.sum(spread(add, lanes, threads), axis=0).T
    present = mass > 0
    return moment[present] / mass[present], mass[present]


def _fine_bins(coarse: Floats, most: int) -> tuple[Integers, Integers]:
    """First fine bin of every coarse bin, and the bits of the key's lower half to drop in it.

    Shapes: masses (65536,) -> (65537,), (65536,).
    """
    occupied = np.flatnonzero(coarse)
    width = _coarse_widths()[occupied]
    if not np.isfinite(width).all():
        raise NonFiniteError
    measure = np.cbrt(coarse[occupied] * (width / width.max()) ** 2)
    wanted = measure / measure.sum() * (most / 2)
    bits = np.clip(np.ceil(np.log2(np.maximum(wanted, 1))), 0, 16).astype(np.int64)
    count, shift = np.zeros(1 << 16, np.int64), np.zeros(1 << 16, np.int64)
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
