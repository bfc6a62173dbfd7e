"""Reading of a weight group by group, scaled by row where the settings say so."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import ScalarT, read_only, upcast
from palettery.kernels.errors import NonFiniteError
from palettery.kernels.groups import GroupLayout
from palettery.kernels.sparsity import LineBuffers, Mask
from palettery.kernels.threads import CancellationCheck, never_cancel

_ALL = slice(None)
Lines = NDArray[ScalarT] | Sequence[NDArray[ScalarT]]
"""Values of some groups, one line for each group.

For a sparse weight the lines differ in length, and lie in buffers that the next read of the thread
overwrites.
"""


@dataclass(frozen=True)
class WeightReader:
    """A weight that is read group by group, as float32 (float64 for float64 weights)."""

    weight: NDArray[Any]
    layout: GroupLayout
    scale: NDArray[np.float32] | None = None
    """Scale of each row, [rows, 1, ..., 1]; None for no scaling."""
    sensitivity: NDArray[np.floating] | None = None
    """Weight of each element's squared error, in the shape of `weight`; None for equal weights."""
    largest_scale: float = 1.0
    """Largest scale of any row of the whole tensor."""
    mask: Mask | None = None
    """Which weights of a sparse one are stored, in the shape of `weight`: only these are read. None
    for all."""
    by_code: bool = False
    """Whether two-byte weights are clustered and assigned by their bit patterns (codes)."""
    _buffers: LineBuffers = field(default_factory=LineBuffers, repr=False, compare=False)

    @property
    def weighted(self) -> bool:
        """Whether the squared errors of the values are weighted."""
        return self.sensitivity is not None or self.scale is not None

    def codes(self, groups: range, rows: slice = _ALL) -> Lines[np.uint16]:
        """Return the codes of two-byte weights. Shapes: (len(groups), elements of those rows)."""
        codes = self.layout.take(self.weight.view(np.uint16), groups, rows)
        return self._select_stored("values", codes, groups, rows)

    def values(self, groups: range, rows: slice = _ALL) -> Lines[np.floating]:
        """Return the scaled values of some groups, or of some of their rows; a view where possible.

        Shapes: (len(groups), elements of those rows).
        """
        return self._select_stored("values", self._all_values(groups, rows), groups, rows)

    def _all_values(self, groups: range, rows: slice) -> NDArray[np.floating]:
        if self.scale is None:
            return upcast(self.layout.take(self.weight, groups, rows))
        values = upcast(self.layout.cut(self.weight, groups, rows))
        scaled_values = values / self.layout.cut(self.scale, groups, rows)
        return self.layout.gather(scaled_values, groups)

    def entries(self, groups: range, rows: slice = _ALL) -> Lines[np.floating]:
        """Return the scaled values rounded to the weight's dtype, which are what is clustered.

        Shapes: (len(groups), elements of those rows).
        """
        values = self._all_values(groups, rows)
        if self.scale is not None and self.weight.dtype.itemsize == 2:
            values = upcast(values.astype(self.weight.dtype))
        return self._select_stored("values", values, groups, rows)

    def masses(self, groups: range, rows: slice = _ALL) -> Lines[np.float64] | None:
        """Return the mass of each value, which weights its squared error; None if all are equal.

        The error of a weight is that of its scaled value times the scale of its row. So with the
        square of the scale as a factor, clustering minimises the error of the weight itself.

        Shapes: (len(groups), elements of those rows).
        """
        if not self.weighted:
            return None
        masses = None
        if self.sensitivity is not None:
            masses = self.layout.cut(self.sensitivity, groups, rows).astype(np.float64)
        if self.scale is not None:
            row_masses = self.layout.cut(self.scale, groups, rows).astype(np.float64)
            row_masses = np.square(row_masses / self.largest_scale)
            if masses is None:
                masses = np.ones(self.layout.cut(self.weight, groups, rows).shape)
            masses *= row_masses
        assert masses is not None  # noqa: S101 - for mypy
        return self._select_stored("masses", self.layout.gather(masses, groups), groups, rows)

    def _select_stored(
        self, purpose: str, block: NDArray[ScalarT], groups: range, rows: slice
    ) -> "Lines[ScalarT]":
        """Return a block, or of a sparse weight the stored values of each of its lines."""
        if self.mask is None:
            return read_only(block)
        return self._buffers.take(purpose, block, self.layout.take(self.mask, groups, rows))

    def vector_masses(
        self, groups: range, dim: int, check_cancelled: CancellationCheck
    ) -> NDArray[np.floating] | None:
        """Return the mass of each vector, which weights its squared error; None if all are equal.

        For a sparse weight, whose vectors lie within rows, it includes the scale, as in `masses`.

        Shapes: (len(groups), elements / dim).
        """
        if self.mask is not None:
            masses = self.masses(groups)
            return None if masses is None else masses[0].reshape(1, -1, dim).sum(axis=-1)
        if self.sensitivity is None:
            return None
        vectors = self.layout.take_vectors(self.sensitivity, groups, dim, check_cancelled)
        sums: NDArray[np.floating] = vectors.sum(axis=-1)
        return sums

    def vectors(
        self, groups: range, dim: int, check_cancelled: CancellationCheck = never_cancel
    ) -> NDArray[np.floating]:
        """Return the scaled values of some groups as vectors of `dim` elements along axis 0.

        For a sparse weight, vectors are `dim` consecutive stored values of a single group.

        Shapes: (len(groups), elements / dim, dim).
        """
        if self.mask is not None:
            return self.values(groups)[0].reshape(1, -1, dim)
        points = upcast(self.layout.take_vectors(self.weight, groups, dim, check_cancelled))
        if self.scale is None:
            return points
        row_scales = np.broadcast_to(self.scale, self.weight.shape)
        scaled_points: NDArray[np.floating] = points / self.layout.take_vectors(
            row_scales, groups, dim, check_cancelled
        )
        return scaled_points


def raise_non_finite(blocks: Iterable[NDArray[Any]], shape: tuple[int, ...]) -> NoReturn:
    """Raise a `NonFiniteError` with the number of weights that are not finite, and the first one.

    Shapes: the blocks are consecutive rows of a tensor of this shape.
    """
    count, first_weight, rows_before = 0, None, 0
    for block in blocks:
        finite = np.isfinite(block)
        count += finite.size - int(np.count_nonzero(finite))
        if first_weight is None and not finite.all():
            position = np.unravel_index(np.argmin(finite), block.shape)
            first_weight = (
                block[position],
                [rows_before + int(position[0]), *map(int, position[1:])],
            )
        rows_before += len(block)
    if first_weight is None:
        raise NonFiniteError("the weights are so large that their differences or squares overflow")
    raise NonFiniteError(
        f"{count} of {prod(shape)} weights are not finite; the first is {first_weight[0]} "
        f"at index {first_weight[1]}"
    )
