"""Error metrics of palettized weights."""

from dataclasses import dataclass
from math import inf, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import read_only, to_numpy
from palettery.kernels.distribution import Distribution
from palettery.kernels.float16 import BFLOAT16, FLOAT16, upcast_codes
from palettery.kernels.groups import GroupLayout
from palettery.kernels.jit import compiled, compiled_for_maxima, compiled_for_sums
from palettery.kernels.threads import Check, no_check, parallel_map

_BLOCK = 1 << 18
_UPCAST = 1 << 10


@dataclass(frozen=True)
class Errors:
    """Errors of a reconstructed tensor."""

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
    """Errors of a palettized tensor, by group, and statistics of its palettes."""

    group_sse: NDArray[np.float64]
    """Sum of squared errors of each group, in group order."""
    occupancy: NDArray[np.int64]
    """Number of indices that point to each LUT entry, (groups, 2**n_bits)."""
    iterations: int
    """Largest number of refinement passes of any group."""
    distribution: Distribution
    """Histograms of the weights and of their reconstruction."""
    notes: tuple[str, ...] = ()
    """Deviations from the settings, such as leaving fast mode."""


def errors(
    original: Any, reconstructed: Any, threads: int | None = None, check: Check = no_check
) -> Errors:
    """Return the errors of a reconstructed tensor, computed in float64.

    The result does not depend on the number of `threads`; None uses every core.

    Shapes: both the same.
    """
    whole, other = to_numpy(original), to_numpy(reconstructed)
    if whole.shape != other.shape:
        raise ValueError(f"shapes {list(whole.shape)} and {list(other.shape)} differ")
    left, right = whole.reshape(-1), other.reshape(-1)

    def run(start: int) -> tuple[float, float, float]:
        return _distance(left[start : start + _BLOCK], right[start : start + _BLOCK])

    parts = parallel_map(run, range(0, left.size, _BLOCK), threads, check)
    sse, signal, most = zip(*parts, strict=True) if parts else ((), (), ())
    return Errors(sum(sse), sum(signal), max(most, default=0.0))


def group_sse(
    original: NDArray[Any],
    reconstructed: NDArray[Any],
    layout: GroupLayout,
    threads: int | None = None,
    check: Check = no_check,
) -> NDArray[np.float64]:
    """Return the sum of squared errors of each group.

    Shapes: both the layout's -> (groups,).
    """
    sums = np.zeros(layout.groups)
    pieces = layout.pieces(_BLOCK, _BLOCK)

    def run(piece: tuple[range, slice]) -> list[float]:
        left, right = layout.take(original, *piece), layout.take(reconstructed, *piece)
        return [_distance(*rows)[0] for rows in zip(left, right, strict=True)]

    for (groups, _), part in zip(pieces, parallel_map(run, pieces, threads, check), strict=True):
        sums[groups.start : groups.stop] += part
    return sums


def _distance(left: NDArray[Any], right: NDArray[Any]) -> tuple[float, float, float]:
    """Return sum of squared errors, sum of squares and largest error. Shapes: (n,) both."""
    if left.dtype == right.dtype and left.dtype in (FLOAT16, BFLOAT16):
        codes, others = _contiguous(left).view(np.uint16), _contiguous(right).view(np.uint16)
        return _float16_distance(read_only(codes), read_only(others), left.dtype == BFLOAT16)
    wide = np.float32 if left.dtype == right.dtype == np.float32 else np.float64
    return _float_distance(
        read_only(_contiguous(left.astype(wide, copy=False))),
        read_only(_contiguous(right.astype(wide, copy=False))),
    )


def _contiguous(array: NDArray[Any]) -> NDArray[Any]:
    return np.require(array, requirements=["C", "A"])


@compiled
def _float16_distance(
    left: NDArray[np.uint16], right: NDArray[np.uint16], is_bfloat16: bool
) -> tuple[float, float, float]:
    """Compute `_float_distance` of the codes of float16 or bfloat16 values, block by block."""
    sse = signal = most = 0.0
    wide, other = np.empty(_UPCAST, np.uint32), np.empty(_UPCAST, np.uint32)
    for start in range(0, left.size, _UPCAST):
        codes, others = left[start : start + _UPCAST], right[start : start + _UPCAST]
        upcast_codes(codes, is_bfloat16, wide, wide.view(np.float32))
        upcast_codes(others, is_bfloat16, other, other.view(np.float32))
        part = _float_distance(
            wide.view(np.float32)[: codes.size], other.view(np.float32)[: codes.size]
        )
        sse, signal, most = sse + part[0], signal + part[1], max(most, part[2])
    return sse, signal, most


@compiled_for_sums
def _float_distance(
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
