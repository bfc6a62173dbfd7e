"""How far a palettized weight is from the original."""

from dataclasses import dataclass
from math import inf, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import to_numpy
from palettery.kernels.distribution import Distribution
from palettery.kernels.float16 import BFLOAT16, FLOAT16, widen
from palettery.kernels.groups import Layout
from palettery.kernels.jit import compiled, compiled_for_maxima, compiled_for_sums
from palettery.kernels.source import read_only
from palettery.kernels.threads import Check, spread, unchecked

_BLOCK = 1 << 18
_WIDENED = 1 << 10


@dataclass(frozen=True)
class Errors:
    """Distance between two tensors."""

    sse: float
    """Sum of squared errors."""
    signal: float
    """Sum of squared weights."""
    max_error: float
    """Largest absolute error."""

    @property
    def snr_db(self) -> float:
        """10 log10(signal / sse); infinite when there is no error."""
        if self.sse == 0:
            return inf
        return 10 * log10(self.signal / self.sse) if self.signal > 0 else -inf


@dataclass(frozen=True)
class Metrics(Errors):
    """What palettizing did to a tensor."""

    group_sse: NDArray[np.float64]
    """One per group, in group order."""
    occupancy: NDArray[np.int64]
    """Indices that point at each LUT entry, (groups, 2**n_bits)."""
    iterations: int
    """Refinement passes, of the group that took most."""
    distribution: Distribution
    """Of the weights, and of what stands for them."""
    notes: tuple[str, ...] = ()
    """What was done differently from the request."""


def errors(
    original: Any, reconstructed: Any, threads: int | None = None, check: Check = unchecked
) -> Errors:
    """Errors between a tensor and its reconstruction, in float64.

    The result does not depend on the number of `threads`; None uses every core.

    Shapes: both the same.
    """
    whole, other = to_numpy(original), to_numpy(reconstructed)
    if whole.shape != other.shape:
        raise ValueError(f"shapes {list(whole.shape)} and {list(other.shape)} differ")
    left, right = whole.reshape(-1), other.reshape(-1)

    def run(start: int) -> tuple[float, float, float]:
        return _distance(left[start : start + _BLOCK], right[start : start + _BLOCK])

    found = spread(run, range(0, left.size, _BLOCK), threads, check)
    sse, signal, most = zip(*found, strict=True) if found else ((), (), ())
    return Errors(sum(sse), sum(signal), max(most, default=0.0))


def group_sse(
    original: NDArray[Any],
    reconstructed: NDArray[Any],
    layout: Layout,
    threads: int | None = None,
    check: Check = unchecked,
) -> NDArray[np.float64]:
    """Sum of squared errors of each group.

    Shapes: both the layout's -> (groups,).
    """
    sums = np.zeros(layout.groups)
    pieces = layout.pieces(_BLOCK, _BLOCK)

    def run(piece: tuple[range, slice]) -> list[float]:
        left, right = layout.take(original, *piece), layout.take(reconstructed, *piece)
        return [_distance(*rows)[0] for rows in zip(left, right, strict=True)]

    for (groups, _), found in zip(pieces, spread(run, pieces, threads, check), strict=True):
        sums[groups.start : groups.stop] += found
    return sums


def _distance(left: NDArray[Any], right: NDArray[Any]) -> tuple[float, float, float]:
    """Sum of squared errors, sum of squares and largest error. Shapes: (n,) both."""
    if left.dtype == right.dtype and left.dtype in (FLOAT16, BFLOAT16):
        ours, theirs = _in_order(left).view(np.uint16), _in_order(right).view(np.uint16)
        return _distance_of_halves(read_only(ours), read_only(theirs), left.dtype == BFLOAT16)
    wide = np.float32 if left.dtype == right.dtype == np.float32 else np.float64
    return _distance_of_floats(
        read_only(_in_order(left.astype(wide, copy=False))),
        read_only(_in_order(right.astype(wide, copy=False))),
    )


def _in_order(array: NDArray[Any]) -> NDArray[Any]:
    return np.require(array, requirements=["C", "A"])


@compiled
def _distance_of_halves(
    left: NDArray[np.uint16], right: NDArray[np.uint16], brain: bool
) -> tuple[float, float, float]:
    """Of float16 or bfloat16 (`brain`) by their bits, widened a few at a time."""
    sse = signal = most = 0.0
    wide, other = np.empty(_WIDENED, np.uint32), np.empty(_WIDENED, np.uint32)
    for start in range(0, left.size, _WIDENED):
        ours, theirs = left[start : start + _WIDENED], right[start : start + _WIDENED]
        widen(ours, brain, wide, wide.view(np.float32))
        widen(theirs, brain, other, other.view(np.float32))
        found = _distance_of_floats(
            wide.view(np.float32)[: ours.size], other.view(np.float32)[: ours.size]
        )
        sse, signal, most = sse + found[0], signal + found[1], max(most, found[2])
    return sse, signal, most


@compiled_for_sums
def _distance_of_floats(
    left: NDArray[np.floating], right: NDArray[np.floating]
) -> tuple[float, float, float]:
    sse = signal = 0.0
    for i in range(left.size):
        value = np.float64(left[i])
        error = value - np.float64(right[i])
        sse += error * error
        signal += value * value
    return sse, signal, _largest(left, right)


@compiled_for_maxima
def _largest(left: NDArray[np.floating], right: NDArray[np.floating]) -> float:
    most = 0.0
    for i in range(left.size):
        most = max(most, abs(np.float64(left[i]) - np.float64(right[i])))
    return most
