"""A layer whose output error is minimised: its weights by chunks of rows, and their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.feedback.layer_inputs import LayerInputs
from palettery.kernels.weight_reader import WeightReader

Floats = NDArray[np.float64]
Labels = list[NDArray[np.uint8]]
"""For each chunk, the palette entry of every vector, (columns, vectors)."""
CHUNK_VECTORS = 64
"""Vectors per column in a chunk. Fixed, so that results do not depend on the number of threads."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one convolution group, which is the work of one thread at a time."""

    rows: slice
    group: int
    """Group of the convolution, which determines the inputs; 0 for other layers."""
    starts: NDArray[np.int64]
    """First vector of each run of vectors that share a palette, then the number of vectors."""
    palettes: NDArray[np.int64]
    """Palette of each run; 0 if palettes belong to columns (group axis 1)."""


@dataclass(frozen=True)
class LayerProblem:
    """A weight in chunks, with columns in the order of `LayerInputs`.

    A column of a chunk has vectors of `dim` consecutive rows. Arrays of a chunk are
    (columns, dim, vectors), so that the inner loops run over vectors. With a scale per row,
    weights and entries are divided by it, and the error of a row is weighted by its square.
    """

    reader: WeightReader
    inputs: LayerInputs
    dim: int

    @cached_property
    def chunks(self) -> Sequence[Chunk]:
        """All chunks, in the order of the rows."""
        layout = self.reader.layout
        group_rows = layout.shape[0] // self.inputs.groups
        chunk_rows = CHUNK_VECTORS * self.dim
        rows_per_palette = layout.size if layout.axis == 0 else layout.shape[0]
        chunks = []
        for group in range(self.inputs.groups):
            end = (group + 1) * group_rows
            for first in range(group * group_rows, end, chunk_rows):
                last = min(first + chunk_rows, end)
                palettes = np.arange(first // rows_per_palette, (last - 1) // rows_per_palette + 1)
                starts = np.clip(np.append(palettes * rows_per_palette, last), first, last) - first
                chunks.append(Chunk(slice(first, last), group, starts // self.dim, palettes))
        return chunks

    @cached_property
    def column_palettes(self) -> NDArray[np.int64]:
        """Palette of each column, (columns,); 0 if palettes belong to rows (group axis 0)."""
        layout = self.reader.layout
        if layout.axis == 0:
            return np.zeros(len(self.inputs.order), np.int64)
        inner = len(self.inputs.order) // layout.shape[1]
        palettes: NDArray[np.int64] = self.inputs.order // inner // layout.size
        return palettes

    def values(self, chunk: Chunk) -> Floats:
        """Return the scaled weights of a chunk. Shapes: -> (columns, dim, vectors)."""
        values = self.by_column(self.reader.weight, chunk)
        if self.reader.scale is not None:
            scale = self.reader.scale.reshape(-1)[chunk.rows].astype(np.float64)
            values /= scale.reshape(-1, self.dim).T
        return values

    def by_column(self, weight: NDArray[Any], chunk: Chunk) -> Floats:
        """Return a chunk of an array in the weight's shape. Shapes: -> (columns, dim, vectors)."""
        return self._columns(weight, chunk).astype(np.float64)

    def mask(self, chunk: Chunk) -> NDArray[np.bool_]:
        """Return the mask of a sparse weight, (columns, vectors); (0, 0) if the weight is dense."""
        if self.reader.mask is None:
            return np.empty((0, 0), np.bool_)
        mask: NDArray[np.bool_] = self._columns(self.reader.mask, chunk)[:, 0]
        return mask

    def row_weights(self, chunk: Chunk) -> Floats:
        """Return the weight of each row's error. Shapes: -> (dim, vectors)."""
        rows = chunk.rows.stop - chunk.rows.start
        if self.reader.scale is None:
            return np.ones((self.dim, rows // self.dim))
        scale = self.reader.scale.reshape(-1)[chunk.rows].astype(np.float64)
        squares = np.square(scale / self.reader.largest_scale)
        return np.ascontiguousarray(squares.reshape(-1, self.dim).T)

    def labels(self, indices: NDArray[np.uint8]) -> Labels:
        """Return the labels for indices that include one for every vector of the weight."""
        table = indices.reshape(len(indices), -1)[:, self.inputs.order]
        return [np.ascontiguousarray(table[self._vectors(chunk)].T) for chunk in self.chunks]

    def indices(self, labels: Labels) -> NDArray[np.uint8]:
        """Return labels as palette indices, in the shape that `Palette` describes."""
        rows, *rest = self.reader.layout.shape
        indices = np.empty((rows // self.dim, *rest), np.uint8)
        table = indices.reshape(len(indices), -1)
        for chunk, part in zip(self.chunks, labels, strict=True):
            table[self._vectors(chunk), self.inputs.order] = part.T
        return indices

    def _vectors(self, chunk: Chunk) -> slice:
        return slice(chunk.rows.start // self.dim, chunk.rows.stop // self.dim)

    def _columns(self, array: NDArray[Any], chunk: Chunk) -> NDArray[Any]:
        columns = self.inputs.order
        rows = array[chunk.rows].reshape(-1, self.dim, len(columns))
        return np.ascontiguousarray(rows.transpose(2, 1, 0)[columns])
