"""The numbers that are clustered: a weight's groups, scaled by row where asked for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.arrays import BFLOAT16
from kernels.errors import NonFiniteError
from kernels.groups import Layout
from kernels.jit import compiled

_ALL = slice(None)


@dataclass(frozen=True)
class Source:
    """A weight, read group by group as float32 (float64 for float64 weights)."""

    weight: NDArray[Any]
    layout: Layout
    scale: NDArray[np.float32] | None
    """Per row, [rows, 1..]; None for no scaling."""

    def values(self, groups: range, rows: slice = _ALL) -> NDArray[np.floating]:
        """The values of some groups, or rows of one; a view where nothing has to be done.

        Shapes: (len(groups), elements of those rows).
        """
        values = read_only(widened(self.layout.take(self.weight, groups, rows)))
        if self.scale is None:
            return values
        scales = np.broadcast_to(self.scale, self.weight.shape)
        return read_only(values / self.layout.take(scales, groups, rows))

    def entries(self, groups: range, rows: slice = _ALL) -> NDArray[np.floating]:
        """The values as a palette of the weight's dtype can hold them; these are clustered.

        Shapes: (len(groups), elements of those rows).
        """
        values = self.values(groups, rows)
        if self.scale is None or self.weight.dtype.itemsize > 2:
            return values
        return read_only(widened(values.astype(self.weight.dtype)))

    def vectors(self, groups: range, dim: int) -> NDArray[np.floating]:
        """The values of some groups as vectors of `dim` elements along axis 0.

        Shapes: (len(groups), elements / dim, dim).
        """
        values = self.layout.take_vectors(self.weight, groups, dim)
        wide = widened(values)
        if self.scale is None:
            return wide
        rows = np.broadcast_to(self.scale, self.weight.shape)
        scaled: NDArray[np.floating] = wide / self.layout.take_vectors(rows, groups, dim)
        return scaled


def row_scale(weight: NDArray[Any]) -> NDArray[np.float32]:
    """Largest magnitude of each row, 1 for rows of zeros.

    Shapes: [rows, ..] -> [rows, 1..].

    Raises:
        NonFiniteError: a weight is NaN or infinite.
    """
    scale = np.empty(len(weight), np.float32)
    for row, values in enumerate(weight):
        scale[row] = np.abs(values.astype(np.promote_types(np.float32, weight.dtype))).max()
    if not np.isfinite(scale).all():
        raise_non_finite(weight)
    scale[scale == 0] = 1
    return scale.reshape(-1, *[1] * (weight.ndim - 1))


def raise_non_finite(weight: NDArray[Any]) -> None:
    """Say how many weights are not finite, and where the first one is."""
    finite = np.isfinite(weight)
    bad = np.argwhere(~finite)
    if not len(bad):
        raise NonFiniteError("the weight's magnitudes are beyond float32")
    first = tuple(int(at) for at in bad[0])
    raise NonFiniteError(
        f"{len(bad)} of {weight.size} weights are not finite; the first is {weight[first]} "
        f"at index {list(first)}"
    )


def read_only(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """A view that cannot be written to.

    Kernels are compiled once for arrays that can and once for those that cannot; values come as
    the latter from a memory-mapped file, so they always do.
    """
    view = values.view()
    view.flags.writeable = False
    return view


def widened(values: NDArray[Any]) -> NDArray[np.floating]:
    """The values as float32, or float64 if they are that already; a view if they are either."""
    if values.dtype in (np.float32, np.float64):
        return values
    if values.dtype == BFLOAT16:
        bits = np.empty(values.shape, np.uint32)
        _high_halves(np.ascontiguousarray(values).view(np.uint16).reshape(-1), bits.reshape(-1))
        return bits.view(np.float32)
    return values.astype(np.float32)


@compiled
def _high_halves(halves: NDArray[np.uint16], words: NDArray[np.uint32]) -> None:
    for i in range(halves.size):
        words[i] = np.uint32(halves[i]) << np.uint32(16)
