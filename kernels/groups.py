"""Groups of a tensor: which weights share a palette, and access to them."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import contiguous
from palettery.kernels.errors import DivisibilityError, WeightError
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.threads import CancellationCheck, never_cancel

_ALL = slice(None)
_PIECE_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class GroupLayout:
    """Division of a tensor into groups, each of `size` consecutive channels along `axis`.

    The order of the weights within a group does not matter for clustering, but it must be the same
    wherever the group is read or written.
    """

    shape: tuple[int, ...]
    axis: int
    size: int

    @property
    def groups(self) -> int:
        """Number of groups, and so of palettes."""
        return self.shape[self.axis] // self.size

    @property
    def elements(self) -> int:
        """Number of weights in one group."""
        return prod(self.shape) // self.groups

    def batches(self, max_elements: int) -> Iterator[range]:
        """Yield ranges of groups with at most `max_elements` elements, or with one group."""
        step = max(1, max_elements // self.elements)
        for first in range(0, self.groups, step):
            yield range(first, min(first + step, self.groups))

    @property
    def height(self) -> int:
        """Number of rows (along axis 0) of one group."""
        return self.size if self.axis == 0 else self.shape[0]

    def rows_within(self, max_elements: int) -> int:
        """Return how many rows of one group hold at most `max_elements` elements; at least 1."""
        return max(1, max_elements * self.height // self.elements)

    def rows(self, max_elements: int) -> list[slice]:
        """Return blocks of rows of one group with at most `max_elements` elements, or one row."""
        step = self.rows_within(max_elements)
        return [
            slice(first, min(first + step, self.height)) for first in range(0, self.height, step)
        ]

    def pieces(self, batch_elements: int, max_elements: int) -> list[tuple[range, slice]]:
        """Return pieces of work: ranges of whole groups, or blocks of rows of single large groups.

        Ranges have at most `batch_elements` elements. Groups of more than `max_elements` elements
        are cut into blocks of at most as many.
        """
        if self.elements <= max_elements:
            return [(groups, _ALL) for groups in self.batches(batch_elements)]
        blocks = self.rows(max_elements)
        return [
            (range(first, first + 1), block) for first in range(self.groups) for block in blocks
        ]

    def take(self, array: NDArray[Any], groups: range, rows: slice = _ALL) -> NDArray[Any]:
        """Return the elements of some groups, or of some of their rows; a view where possible.

        The result is contiguous and aligned, since kernels would be recompiled for other arrays.

        Shapes: shape -> (len(groups), elements of those rows).
        """
        return self.gather(self.cut(array, groups, rows), groups)

    def cut(self, array: NDArray[Any], groups: range, rows: slice = _ALL) -> NDArray[Any]:
        """Return a view of some groups, or of some of their rows, in the shape of the tensor.

        The array may also have one element per row, [rows, 1, ..., 1].
        """
        if self.axis == 0:
            return array[groups.start * self.size : groups.stop * self.size][rows]
        if array.shape[1] == 1:
            return array[rows]
        return array[rows, groups.start * self.size : groups.stop * self.size]

    def gather(self, block: NDArray[Any], groups: range) -> NDArray[Any]:
        """Return a block from `cut` with the elements of each group next to each other.

        Shapes: -> (len(groups), elements).
        """
        if self.axis == 1:
            count, _, *rest = block.shape
            block = np.moveaxis(block.reshape(count, len(groups), self.size, *rest), 1, 0)
        return contiguous(block.reshape(len(groups), -1))

    def put(
        self, array: NDArray[Any], groups: range, values: NDArray[Any], rows: slice = _ALL
    ) -> None:
        """Write values from `take` back into the array; a no-op where they are a view of it.

        Shapes: values (len(groups), elements of those rows).
        """
        if np.may_share_memory(array, values):
            return
        block = self.cut(array, groups, rows)
        if self.axis == 0:
            block[...] = values.reshape(block.shape)
            return
        count, _, *rest = block.shape
        split = values.reshape(len(groups), count, self.size, *rest)
        block[...] = np.moveaxis(split, 0, 1).reshape(block.shape)

    def take_vectors(
        self,
        array: NDArray[Any],
        groups: range,
        dim: int,
        check_cancelled: CancellationCheck = never_cancel,
    ) -> NDArray[Any]:
        """Return the elements of some groups as vectors of `dim` consecutive ones along axis 0.

        Shapes: shape -> (len(groups), elements / dim, dim).
        """
        rows, *rest = array.shape
        vector_rows = np.moveaxis(array.reshape(rows // dim, dim, *rest), 1, 0)
        layout = self.index_layout(dim)
        vectors = np.empty((len(groups), layout.elements, dim), array.dtype)
        filled = 0
        for rows_of_piece in layout.rows(_PIECE_ELEMENTS) if len(groups) == 1 else [_ALL]:
            for element, row in enumerate(vector_rows):
                values = layout.take(row, groups, rows_of_piece)
                vectors[:, filled : filled + values.shape[1], element] = values
            filled += values.shape[1]
            check_cancelled()
        return vectors

    def index_layout(self, dim: int) -> "GroupLayout":
        """Return the layout of the indices, one for `dim` weights along axis 0."""
        rows, *rest = self.shape
        size = self.size // dim if self.axis == 0 else self.size
        return GroupLayout((rows // dim, *rest), self.axis, size)

    def lut_shape(self, *last_axes: int) -> tuple[int, ...]:
        """Return the shape [groups on axis 0, groups on axis 1, 1, ..., 1, *last_axes]."""
        groups = [1] * len(self.shape)
        groups[self.axis] = self.groups
        return (*groups, *last_axes)


def group_layout(shape: tuple[int, ...], settings: PaletteSettings) -> GroupLayout:
    """Return the groups that the settings define.

    Raises:
        WeightError: the tensor has no such axis.
        DivisibilityError: group_size does not divide.
    """
    axis, size = settings.axis, settings.group_size
    if size is None:
        axis, size = 0, shape[0]
    if axis >= len(shape):
        raise WeightError(f"a weight of shape {list(shape)} has no axis {axis} to cut groups along")
    if shape[axis] % size:
        raise DivisibilityError(
            f"group_size {size} does not divide axis {axis} of a weight of shape {list(shape)}"
        )
    return GroupLayout(shape, axis, size)


def check_cluster_dim(layout: GroupLayout, cluster_dim: int) -> None:
    """Check that whole vectors along axis 0 fill a group of a dense weight.

    Raises:
        DivisibilityError: cluster_dim does not divide.
    """
    if layout.height % cluster_dim:
        raise DivisibilityError(
            f"cluster_dim {cluster_dim} does not divide the {layout.height} rows of a group "
            f"of a weight of shape {list(layout.shape)}"
        )


def layout_from_lut(shape: tuple[int, ...], lut_shape: tuple[int, ...]) -> GroupLayout:
    """Return the groups of a weight of this shape, given the shape of its LUT."""
    axis = 1 if len(shape) > 1 and lut_shape[1] > 1 else 0
    return GroupLayout(shape, axis, shape[axis] // lut_shape[axis])
