"""Reading of a weight group by group, scaled by row where the settings say so."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import read_only, upcast
from palettery.kernels.errors import NonFiniteError
from palettery.kernels.groups import GroupLayout
from palettery.kernels.threads import Check, no_check

_ALL = slice(None)


@dataclass(frozen=True)
class WeightReader:
    """A weight that is read group by group, as float32 (float64 for float64 weights)."""

    weight: NDArray[Any]
    layout: GroupLayout
    scale: NDArray[np.float32] | None = None
    """Scale of each row, [rows, 1..]; None for no scaling."""
    sensitivity: NDArray[np.floating] | None = None
    """Weight of each element's squared error, in the shape of `weight`; None for equal weights."""
    largest_scale: float = 1.0
    """Largest scale of any row of the whole tensor."""
    counted: bool = False
    """Whether the groups are clustered and assigned by the codes of their two-byte weights."""

    @property
    def weighted(self) -> bool:
        """Whether the squared errors of the values have different weights."""
        return self.sensitivity is not None or self.scale is not None

    def codes(self, groups: range, rows: slice = _ALL) -> NDArray[np.uint16]:
        """Return the codes of two-byte weights. Shapes: (len(groups), elements of those rows)."""
        return read_only(self.layout.take(self.weight.view(np.uint16), groups, rows))

    def values(self, groups: range, rows: slice = _ALL) -> NDArray[np.floating]:
        """Return the scaled values of some groups, or of some of their rows; a view where possible.

        Shapes: (len(groups), elements of those rows).
        """
        if self.scale is None:
            return read_only(upcast(self.layout.take(self.weight, groups, rows)))
        wide = upcast(self.layout.cut(self.weight, groups, rows))
        scaled = wide / self.layout.cut(self.scale, groups, rows)
        return read_only(self.layout.gather(scaled, groups))

    def entries(self, groups: range, rows: slice = _ALL) -> NDArray[np.floating]:
        """Return the scaled values rounded to the weight's dtype; these are clustered.

        Shapes: (len(groups), elements of those rows).
        """
        values = self.values(groups, rows)
        if self.scale is None or self.weight.dtype.itemsize > 2:
            return values
        return read_only(upcast(values.astype(self.weight.dtype)))

    def masses(self, groups: range, rows: slice = _ALL) -> NDArray[np.float64] | None:
        """Return the weight of each value's squared error; None if all are equal.

        The error of a weight is that of its scaled value times the scale of its row. So with the
        square of the scale as a factor, clustering minimises the error of the weight itself.

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
        return read_only(self.layout.gather(block, groups))

    def vectors(self, groups: range, dim: int, check: Check = no_check) -> NDArray[np.floating]:
        """Return the scaled values of some groups as vectors of `dim` elements along axis 0.

        Shapes: (len(groups), elements / dim, dim).
        """
        wide = upcast(self.layout.take_vectors(self.weight, groups, dim, check))
        if self.scale is None:
            return wide
        rows = np.broadcast_to(self.scale, self.weight.shape)
        scaled: NDArray[np.floating] = wide / self.layout.take_vectors(rows, groups, dim, check)
        return scaled


def raise_non_finite(blocks: Iterable[NDArray[Any]], shape: tuple[int, ...]) -> NoReturn:
    """Raise a `NonFiniteError` with the number of weights that are not finite, and the first one.

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
