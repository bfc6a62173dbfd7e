"""The numbers that are clustered: a weight's groups, scaled by row where asked for."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.errors import NonFiniteError
from palettery.kernels.float16 import BFLOAT16, FLOAT16, widened_halves
from palettery.kernels.groups import Layout
from palettery.kernels.threads import Check, unchecked

_ALL = slice(None)
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Source:
    """A weight, read group by group as float32 (float64 for float64 weights)."""

    weight: NDArray[Any]
    layout: Layout
    scale: NDArray[np.float32] | None = None
    """Per row, [rows, 1..]; None for no scaling."""
    sensitivity: NDArray[np.floating] | None = None
    """Like the weight."""
    largest_scale: float = 1.0
    """Of the rows of the whole tensor."""

    counted: bool = False
    """Whether the groups are clustered and assigned by the bits of their two-byte weights."""

    @property
    def weighted(self) -> bool:
        """Whether the errors of some values count for more than those of others."""
        return self.sensitivity is not None or self.scale is not None

    def codes(self, groups: range, rows: slice = _ALL) -> NDArray[np.uint16]:
        """The bits of two-byte weights. Shapes: (len(groups), elements of those rows)."""
        return read_only(self.layout.take(self.weight.view(np.uint16), groups, rows))

    def values(self, groups: range, rows: slice = _ALL) -> NDArray[np.floating]:
        """The values of some groups, or rows of them; a view where nothing has to be done.

        Shapes: (len(groups), elements of those rows).
        """
        if self.scale is None:
            return read_only(widened(self.layout.take(self.weight, groups, rows)))
        wide = widened(self.layout.cut(self.weight, groups, rows))
        scaled = wide / self.layout.cut(self.scale, groups, rows)
        return read_only(self.layout.gathered(scaled, groups))

    def entries(self, groups: range, rows: slice = _ALL) -> NDArray[np.floating]:
        """The values as a palette of the weight's dtype can hold them; these are clustered.

        Shapes: (len(groups), elements of those rows).
        """
        values = self.values(groups, rows)
        if self.scale is None or self.weight.dtype.itemsize > 2:
            return values
        return read_only(widened(values.astype(self.weight.dtype)))

    def masses(self, groups: range, rows: slice = _ALL) -> NDArray[np.float64] | None:
        """What a squared error of each of the values counts for; None where all count the same.

        An error of the scaled value is one of the weight times its row's scale, so its square
        counts with the square of the scale: what is least is then the error of the weight itself.

        Shapes: (len(groups), elements of those rows).
        """
        if not self.weighted:
            return None
        block = None
        if self.sensitivity is not None:
            block = self.layout.cut(self.sensitivity, groups, rows).astype(np.float64)
        if self.scale is not None:
            share = self.layout.cut(self.scale, groups, rows).astype(np.float64)
            share = np.square(share / self.largest_scale)
            if block is None:
                block = np.ones(self.layout.cut(self.weight, groups, rows).shape)
            block *= share
        assert block is not None  # noqa: S101 - for mypy
        return read_only(self.layout.gathered(block, groups))

    def vectors(self, groups: range, dim: int, check: Check = unchecked) -> NDArray[np.floating]:
        """The values of some groups as vectors of `dim` elements along axis 0.

        Shapes: (len(groups), elements / dim, dim).
        """
        wide = widened(self.layout.take_vectors(self.weight, groups, dim, check))
        if self.scale is None:
            return wide
        rows = np.broadcast_to(self.scale, self.weight.shape)
        scaled: NDArray[np.floating] = wide / self.layout.take_vectors(rows, groups, dim, check)
        return scaled


def raise_non_finite(blocks: Iterable[NDArray[Any]], shape: tuple[int, ...]) -> NoReturn:
    """Say how many weights are not finite, and where the first one is.

    Shapes: the blocks are consecutive rows of a tensor of this shape.
    """
    count, first, row = 0, None, 0
    for block in blocks:
        finite = np.isfinite(block)
        count += finite.size - int(np.count_nonzero(finite))
        if first is None and not finite.all():
            at = np.unravel_index(np.argmin(finite), block.shape)
            first = block[at], [row + int(at[0]), *map(int, at[1:])]
        row += len(block)
    if first is None:
        raise NonFiniteError("the weights are so large that their differences or squares overflow")
    raise NonFiniteError(
        f"{count} of {prod(shape)} weights are not finite; the first is {first[0]} "
        f"at index {first[1]}"
    )


def read_only(values: NDArray[Number]) -> NDArray[Number]:
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
    if values.dtype in (FLOAT16, BFLOAT16):
        return widened_halves(values)
    return values.astype(np.float32)
