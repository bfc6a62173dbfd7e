"""Groups of a tensor: which weights share a palette, and access to them."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.errors import DivisibilityError, WeightError
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.threads import Check, no_check

_ALL = slice(None)
_PIECE = 1 << 20


@dataclass(frozen=True)
class GroupLayout:
    """Groups of a tensor: `size` consecutive channels along `axis` each.

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
        """Number of rows of one group."""
        return self.size if self.axis == 0 else self.shape[0]

    def rows_within(self, max_elements: int) -> int:
        """Return how many rows of one group hold at most `max_elements` elements; at least 1."""
        return max(1, max_elements * self.height // self.elements)

    def rows(self, max_elements: int) -> list[slice]:
        """Return blocks of rows of one group with at most `max_elements` elements, or one row."""
        step = self.rows_within(max_elements)
        return [slice(at, min(at + step, self.height)) for at in range(0, self.height, step)]

    def pieces(self, batch: int, most: int) -> list[tuple[range, slice]]:
        """Return pieces of work: batches of `batch` elements, or blocks of rows of large groups.

        A group of more than `most` elements is cut into blocks of rows.
        """
        if self.elements <= most:
            return [(groups, _ALL) for groups in self.batches(batch)]
        rows = self.rows(most)
        return [(range(at, at + 1), piece) for at in range(self.groups) for piece in rows]

    def take(self, array: NDArray[Any], groups: range, rows: slice = _ALL) -> NDArray[Any]:
        """Return the elements of some groups, or of some of their rows; a view where possible.

        The result is contiguous and aligned, since kernels would be recompiled for other arrays.

        Shapes: shape -> (len(groups), elements of those rows).
        """
        return self.gather(self.cut(array, groups, rows), groups)

    def cut(self, array: NDArray[Any], groups: range, rows: slice = _ALL) -> NDArray[Any]:
        """Return a view of some groups, or of some of their rows, in the shape of the tensor.

        From an array with one element per row, [rows, 1..], those rows are returned.
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
        return np.require(block.reshape(len(groups), -1), requirements=["C", "A"])

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
        self, array: NDArray[Any], groups: range, dim: int, check: Check = no_check
    ) -> NDArray[Any]:
        """Return the elements of some groups as vectors of `dim` consecutive ones along axis 0.

        Shapes: shape -> (len(groups), elements / dim, dim).
        """
        rows, *rest = array.shape
        lanes = np.moveaxis(array.reshape(rows // dim, dim, *rest), 1, 0)
        cells = self.index_layout(dim)
        vectors = np.empty((len(groups), cells.elements, dim), array.dtype)
        at = 0
        for piece in cells.rows(_PIECE) if len(groups) == 1 else [_ALL]:
            for number, lane in enumerate(lanes):
                part = cells.take(lane, groups, piece)
                vectors[:, at : at + part.shape[1], number] = part
            at += part.shape[1]
            check()
        return vectors

    def index_layout(self, dim: int) -> "GroupLayout":
        """Return the layout of the indices, one for `dim` weights along axis 0."""
        rows, *rest = self.shape
        size = self.size // dim if self.axis == 0 else self.size
        return GroupLayout((rows // dim, *rest), self.axis, size)

    def lut_shape(self, *last: int) -> tuple[int, ...]:
        """Return the shape of an array with one entry per group: [groups0, groups1, 1.., *last]."""
        groups = [1] * len(self.shape)
        groups[self.axis] = self.groups
        return (*groups, *last)


def group_layout(shape: tuple[int, ...], settings: PaletteSettings) -> GroupLayout:
    """Return the groups that the settings define.

    Raises:
        WeightError: the tensor has no such axis.
        DivisibilityError: group_size or cluster_dim does not divide.
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
    rows = size if axis == 0 else shape[0]
    if rows % settings.cluster_dim:
        raise DivisibilityError(
            f"cluster_dim {settings.cluster_dim} does not divide the {rows} rows of a group "
            f"of a weight of shape {list(shape)}"
        )
    return GroupLayout(shape, axis, size)


def lut_layout(shape: tuple[int, ...], lut_shape: tuple[int, ...]) -> GroupLayout:
    """Return the groups that the shape of a stored LUT implies."""
    axis = 1 if len(shape) > 1 and lut_shape[1] > 1 else 0
    return GroupLayout(shape, axis, shape[axis] // lut_shape[axis])
