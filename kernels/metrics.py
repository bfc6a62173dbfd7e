"""Error metrics of palettized weights."""

from dataclasses import dataclass, replace
from math import inf, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import contiguous, read_only, to_numpy
from palettery.kernels.distribution import Distribution
from palettery.kernels.float16 import BFLOAT16, FLOAT16, upcast_codes
from palettery.kernels.groups import GroupLayout
from palettery.kernels.jit import compiled, compiled_for_maxima, compiled_for_sums
from palettery.kernels.threads import CancellationCheck, never_cancel, parallel_map

_BLOCK = 1 << 18
"""Elements per piece of work."""
_UPCAST = 1 << 10
"""Two-byte elements that are converted to float32 at once."""


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
class OutputErrors:
    """Errors of a layer's outputs: means over its inputs x, summed over the outputs.

    W is the weight, Q its reconstruction, and H the mean of x x^T, the second moments.
    """

    sse: float
    """Squared error, tr((W - Q) H (W - Q)^T)."""
    signal: float
    """Squared outputs, tr(W H W^T)."""
    plain_sse: float
    """Squared error of the palette that was computed without error feedback."""


@dataclass(frozen=True)
class Metrics(Errors):
    """Errors of a palettized tensor, in total and by group, and statistics of its palettes."""

    group_sse: NDArray[np.float64]
    """Sum of squared errors of each group, in group order."""
    occupancy: NDArray[np.int64]
    """Number of indices that point to each LUT entry, (groups, 2**n_bits)."""
    iterations: int
    """With error feedback, the number of rounds of assignment and least squares; otherwise the most
    path searches (scalars) or passes (vectors) of any group, 0 on a GPU."""
    distribution: Distribution
    """Histograms of the weights and of their reconstruction."""
    notes: tuple[str, ...] = ()
    """Deviations from the settings, such as exact clustering in spite of fast mode."""
    output: OutputErrors | None = None
    """Errors of the layer's outputs; None without error feedback."""

    def with_notes(self, notes: tuple[str, ...]) -> "Metrics":
        """Return a copy of the metrics with the notes appended."""
        return replace(self, notes=(*self.notes, *notes))


def errors(
    original: Any,
    reconstructed: Any,
    threads: int | None = None,
    check_cancelled: CancellationCheck = never_cancel,
) -> Errors:
    """Return the errors of a reconstructed tensor, computed in float64.

    The result does not depend on the number of `threads`; None uses every core.

    Shapes: both the same.
    """
    weights, decoded = to_numpy(original), to_numpy(reconstructed)
    if weights.shape != decoded.shape:
        raise ValueError(f"shapes {list(weights.shape)} and {list(decoded.shape)} differ")
    flat_weights, flat_decoded = weights.reshape(-1), decoded.reshape(-1)

    def measure(start: int) -> tuple[float, float, float]:
        return _measure(flat_weights[start : start + _BLOCK], flat_decoded[start : start + _BLOCK])

    parts = parallel_map(measure, range(0, flat_weights.size, _BLOCK), threads, check_cancelled)
    sse, signal, largest = zip(*parts, strict=True) if parts else ((), (), ())
    return Errors(sum(sse), sum(signal), max(largest, default=0.0))


def weighted_errors(
    original: NDArray[Any],
    reconstructed: NDArray[Any],
    sensitivity: NDArray[np.floating],
    threads: int | None = None,
    check_cancelled: CancellationCheck = never_cancel,
) -> tuple[float, float]:
    """Return the sums of squared errors and of squared weights, each times its sensitivity.

    Shapes: all the same.
    """
    flat_weights, flat_decoded, flat_sensitivity = (
        original.reshape(-1),
        reconstructed.reshape(-1),
        sensitivity.reshape(-1),
    )

    def measure(start: int) -> tuple[float, float]:
        block = slice(start, start + _BLOCK)
        values = flat_weights[block].astype(np.float64)
        differences = values - flat_decoded[block].astype(np.float64)
        block_sensitivity = flat_sensitivity[block].astype(np.float64)
        return float(block_sensitivity @ np.square(differences)), float(
            block_sensitivity @ np.square(values)
        )

    parts = parallel_map(measure, range(0, flat_weights.size, _BLOCK), threads, check_cancelled)
    return sum(sse for sse, _ in parts), sum(signal for _, signal in parts)


def group_sse(
    original: NDArray[Any],
    reconstructed: NDArray[Any],
    layout: GroupLayout,
    threads: int | None = None,
    check_cancelled: CancellationCheck = never_cancel,
) -> NDArray[np.float64]:
    """Return the sum of squared errors of each group.

    Shapes: both the layout's -> (groups,).
    """
    sums = np.zeros(layout.groups)
    pieces = layout.pieces(_BLOCK, _BLOCK)

    def measure(piece: tuple[range, slice]) -> list[float]:
        weights, decoded = layout.take(original, *piece), layout.take(reconstructed, *piece)
        return [_measure(*rows)[0] for rows in zip(weights, decoded, strict=True)]

    for (groups, _), part in zip(
        pieces, parallel_map(measure, pieces, threads, check_cancelled), strict=True
    ):
        sums[groups.start : groups.stop] += part
    return sums


def _measure(weights: NDArray[Any], decoded: NDArray[Any]) -> tuple[float, float, float]:
    """Return sum of squared errors, sum of squares and largest error. Shapes: (n,) both."""
    if weights.dtype == decoded.dtype and weights.dtype in (FLOAT16, BFLOAT16):
        codes, decoded_codes = (
            contiguous(weights).view(np.uint16),
            contiguous(decoded).view(np.uint16),
        )
        return _measure_float16(
            read_only(codes), read_only(decoded_codes), weights.dtype == BFLOAT16
        )
    dtype = np.float32 if weights.dtype == decoded.dtype == np.float32 else np.float64
    return _measure_floats(
        read_only(contiguous(weights.astype(dtype, copy=False))),
        read_only(contiguous(decoded.astype(dtype, copy=False))),
    )


@compiled
def _measure_float16(
    codes: NDArray[np.uint16], decoded_codes: NDArray[np.uint16], is_bfloat16: bool
) -> tuple[float, float, float]:
    """Do the same as `_measure_floats` for the bit patterns of float16 or bfloat16 values."""
    sse = signal = max_error = 0.0
    bits, other_bits = np.empty(_UPCAST, np.uint32), np.empty(_UPCAST, np.uint32)
    for first in range(0, codes.size, _UPCAST):
        block, other_block = codes[first : first + _UPCAST], decoded_codes[first : first + _UPCAST]
        upcast_codes(block, is_bfloat16, bits, bits.view(np.float32))
        upcast_codes(other_block, is_bfloat16, other_bits, other_bits.view(np.float32))
        part = _measure_floats(
            bits.view(np.float32)[: block.size], other_bits.view(np.float32)[: block.size]
        )
        sse, signal, max_error = sse + part[0], signal + part[1], max(max_error, part[2])
    return sse, signal, max_error


@compiled_for_sums
def _measure_floats(
    weights: NDArray[np.floating], decoded: NDArray[np.floating]
) -> tuple[float, float, float]:
    sse = signal = 0.0
    for i in range(weights.size):
        value = np.float64(weights[i])
        error = value - np.float64(decoded[i])
        sse += error * error
        signal += value * value
    return sse, signal, _largest_error(weights, decoded)


@compiled_for_maxima
def _largest_error(weights: NDArray[np.floating], decoded: NDArray[np.floating]) -> float:
    max_error = 0.0
    for i in range(weights.size):
        max_error = max(max_error, abs(np.float64(weights[i]) - np.float64(decoded[i])))
    return max_error
