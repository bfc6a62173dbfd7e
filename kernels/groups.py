"""Where each palette's weights lie in a tensor."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.errors import DivisibilityError, WeightError
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.threads import Check, unchecked

_ALL = slice(None)
_PIECE = 1 << 20


@dataclass(frozen=True)
class Layout:
    """The groups of a tensor: `size` consecutive channels along `axis` each.

    Order within a group does not matter to clustering; it only has to be the same wherever the
    group is read or written.
    """

    shape: tuple[int, ...]
    axis: int
    size: int

    @property
    def groups(self) -> int:
        """Palettes of the tensor."""
        return self.shape[self.axis] // self.size

    @property
    def elements(self) -> int:
        """Weights of one group."""
        return prod(self.shape) // self.groups

    def batches(self, max_elements: int) -> Iterator[range]:
        """Runs of groups that hold at most so many elements, or one group if it holds more."""
        step = max(1, max_elements // self.elements)
        for first in range(0, self.groups, step):
            yield range(first, min(first + step, self.groups))

    @property
    def height(self) -> int:
        """Rows of one group."""
        return self.size if self.axis == 0 else self.shape[0]

    def rows_within(self, max_elements: int) -> int:
        """Rows of one group that hold at most so many elements, or one row."""
        return max(1, max_elements * self.height // self.elements)

    def rows(self, max_elements: int) -> list[slice]:
        """Runs of rows of one group that hold at most so many elements, or one row."""
        step = self.rows_within(max_elements)
        return [slice(at, min(at + step, self.height)) for at in range(0, self.height, step)]

    def pieces(self, batch: int, most: int) -> list[tuple[range, slice]]:
        """Batches of groups of so many elements; rows of one where it holds more than `most`."""
        if self.elements <= most:
            return [(groups, _ALL) for groups in self.batches(batch)]
        rows = self.rows(most)
        return [(range(at, at + 1), piece) for at in range(self.groups) for piece in rows]

    def take(self, array: NDArray[Any], groups: range, rows: slice = _ALL) -> NDArray[Any]:
        """The elements of some groups, or of some rows of them; a view where strides allow.

        Always contiguous and aligned: kernels would be compiled anew for what is not.

        Shapes: shape -> (len(groups), elements of those rows).
        """
        return self.gathered(self.cut(array, groups, rows), groups)

    def cut(self, array: NDArray[Any], groups: range, rows: slice = _ALL) -> NDArray[Any]:
        """A view of some groups, or of some rows of them, as they lie in the tensor.

        An array with one element per row, [rows, 1..], is cut to those rows.
        """
        if self.axis == 0:
            return array[groups.start * self.size : groups.stop * self.size][rows]
        if array.shape[1] == 1:
            return array[rows]
        return array[rows, groups.start * self.size : groups.stop * self.size]

    def gathered(self, block: NDArray[Any], groups: range) -> NDArray[Any]:
        """What `cut` gave, with the elements of each group side by side.

        Shapes: -> (len(groups), elements).
        """
        if self.axis == 1:
            count, _, *rest = block.shape
            block = np.moveaxis(block.reshape(count, len(groups), self.size, *rest), 1, 0)
        return np.require(block.reshape(len(groups), -1), requirements=["C", "A"])

    def put(
        self, array: NDArray[Any], groups: range, values: NDArray[Any], rows: slice = _ALL
    ) -> None:
        """Write back what `take` gave; nothing to do where it gave a view.

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
        self, array: NDArray[Any], groups: range, dim: int, check: Check = unchecked
    ) -> NDArray[Any]:
        """Like `take`, with `dim` consecutive elements along axis 0 as one vector.

        Shapes: shape -> (len(groups), elements / dim, dim).
        """
        rows, *rest = array.shape
        lanes = np.moveaxis(array.reshape(rows // dim, dim, *rest), 1, 0)
        cells = self.divided(dim)
        vectors = np.empty((len(groups), cells.elements, dim), array.dtype)
        at = 0
        for piece in cells.rows(_PIECE) if len(groups) == 1 else [_ALL]:
            for number, lane in enumerate(lanes):
                taken = cells.take(lane, groups, piece)
                vectors[:, at : at + taken.shape[1], number] = taken
            at += taken.shape[1]
            check()
        return vectors

    def divided(self, dim: int) -> "Layout":
        """The layout of the indices, one for `dim` weights along axis 0."""
        rows, *rest = self.shape
        size = self.size // dim if self.axis == 0 else self.size
        return Layout((rows // dim, *rest), self.axis, size)

    def lut_shape(self, *last: int) -> tuple[int, ...]:
        """Shape of something stored per group: [groups0, groups1, 1.., *last]."""
        groups = [1] * len(self.shape)
        groups[self.axis] = self.groups
        return (*groups, *last)


def layout_of(shape: tuple[int, ...], settings: PaletteSettings) -> Layout:
    """The groups that the settings ask for.

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
    return Layout(shape, axis, size)


def stored_layout(shape: tuple[int, ...], lut_shape: tuple[int, ...]) -> Layout:
    """The groups that a stored LUT implies."""
    axis = 1 if len(shape) > 1 and lut_shape[1] > 1 else 0
    return Layout(shape, axis, shape[axis] // lut_shape[axis])
