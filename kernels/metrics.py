"""How far a palettized weight is from the original."""

from dataclasses import dataclass
from math import inf, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.arrays import to_numpy
from kernels.groups import Layout

_BLOCK = 1 << 18


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
    notes: tuple[str, ...] = ()
    """What was done differently from the request."""


def errors(original: Any, reconstructed: Any) -> Errors:
    """Errors between a tensor and its reconstruction, in float64 and in blocks.

    Shapes: both the same.
    """
    whole, other = to_numpy(original), to_numpy(reconstructed)
    if whole.shape != other.shape:
        raise ValueError(f"shapes {list(whole.shape)} and {list(other.shape)} differ")
    sse = signal = most = 0.0
    left, right = whole.reshape(-1), other.reshape(-1)
    for start in range(0, left.size, _BLOCK):
        values = left[start : start + _BLOCK].astype(np.float64)
        difference = values - right[start : start + _BLOCK].astype(np.float64)
        sse += float(difference @ difference)
        signal += float(values @ values)
        most = max(most, float(np.abs(difference).max()))
    return Errors(sse, signal, most)


def group_sse(
    original: NDArray[Any], reconstructed: NDArray[Any], layout: Layout
) -> NDArray[np.float64]:
    """Sum of squared errors of each group.

    Shapes: both the layout's -> (groups,).
    """
    sums = np.empty(layout.groups)
    for groups in layout.batches(_BLOCK):
        difference = layout.take(original, groups).astype(np.float64)
        difference -= layout.take(reconstructed, groups).astype(np.float64)
        sums[groups.start : groups.stop] = np.einsum("ij,ij->i", difference, difference)
    return sums
