"""Histograms of a sample of a tensor's weights, before and after palettization."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, frexp, gcd, ldexp, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import contiguous, read_only, upcast
from palettery.kernels.jit import compiled
from palettery.kernels.sparsity import Mask
from palettery.kernels.weight_reader import WeightReader

SampleReconstruction = Callable[[int, int], NDArray[Any]]
"""Function (first, step) that returns the reconstruction of weights first, first + step, ..."""
CELLS = 128
"""Number of cells of a histogram, half of them below zero."""
SAMPLE = 1 << 15
"""Largest number of weights in a sample."""


@dataclass(frozen=True)
class Distribution:
    """Two histograms with the same cells, each 2**exponent wide; zero separates the middle two.

    Two adjacent cells make one of twice the width, so histograms of different widths can be added.

    Shapes: (CELLS,) both.
    """

    exponent: int
    weights: NDArray[np.int64]
    """Histogram of the sampled weights."""
    reconstructed: NDArray[np.int64]
    """Histogram of the reconstructed values of the sampled weights."""

    @property
    def sample_size(self) -> int:
        """Number of weights in the sample."""
        return int(self.weights.sum())

    def __add__(self, other: "Distribution") -> "Distribution":
        exponent = max(self.exponent, other.exponent)
        left, right = self.coarsen(exponent), other.coarsen(exponent)
        return Distribution(
            exponent, left.weights + right.weights, left.reconstructed + right.reconstructed
        )

    def coarsen(self, exponent: int) -> "Distribution":
        """Return the same distribution with cells at least 2**exponent wide."""
        shift = min(max(0, exponent - self.exponent), 62)
        cells = ((np.arange(CELLS) - CELLS // 2) >> shift) + CELLS // 2
        return Distribution(
            max(self.exponent, exponent),
            _merge_cells(cells, self.weights),
            _merge_cells(cells, self.reconstructed),
        )


def sampling_step(shape: tuple[int, ...]) -> int:
    """Return the distance between sampled weights; coprime to the row length.

    Units: weights, in row-major order.
    """
    step = max(1, ceil(prod(shape) / SAMPLE))
    while gcd(step, prod(shape[1:])) > 1:
        step += 1
    return step


def sample_distribution(
    weight: NDArray[Any], reconstructed: SampleReconstruction, grid: tuple[int, int] | None = None
) -> Distribution:
    """Return the histograms of a sample of a tensor, or of the sampled weights in some of its rows.

    `grid` has the position of the first weight of these rows in the tensor, and the sampling step
    of the tensor; None means that `weight` is the whole tensor.
    """
    offset, step = grid or (0, sampling_step(weight.shape))
    first = -offset % step
    if weight.flags.c_contiguous:
        values = upcast(weight.reshape(-1)[first::step])
    else:
        indices = np.unravel_index(np.arange(first, weight.size, step), weight.shape)
        values = upcast(weight[indices])
    values = read_only(contiguous(values))
    decoded = read_only(contiguous(upcast(reconstructed(first, step))))
    exponent = frexp(max(_largest(values), _largest(decoded)))[1] - (CELLS // 2).bit_length() + 1
    return Distribution(exponent, _histogram(values, exponent), _histogram(decoded, exponent))


def sample_dense(dense: NDArray[Any]) -> SampleReconstruction:
    """Return a function that samples a weight that is reconstructed already."""
    return lambda first, step: dense.reshape(-1)[first::step]


def sample_scalars(
    reader: WeightReader, indices: NDArray[np.uint8], lut: NDArray[Any]
) -> SampleReconstruction:
    """Return a function that looks up the scalar palette entries of a sample.

    Shapes: indices and lut as in `Palette`, the latter in the weight's dtype.
    """
    shape, layout = reader.weight.shape, reader.layout

    def look_up(first: int, step: int) -> NDArray[Any]:
        inner = prod(shape[1:]) if layout.axis == 0 else prod(shape[2:])
        entries = upcast(lut).reshape(-1, *lut.shape[-2:])
        sampled = np.arange(first, prod(shape), step)
        values = np.empty(sampled.size, entries.dtype)
        if reader.mask is None:
            group_indices = contiguous(indices).reshape(shape[0], -1)
            group_layout = (layout.axis, layout.size, inner)
            _look_up_sample(group_indices, entries, (first, step), group_layout, values)
        else:
            group = sampled // (inner * layout.size) % layout.groups
            positions = _stored_positions(
                read_only(reader.mask.reshape(-1)), first, step, sampled.size
            )
            present = np.flatnonzero(positions >= 0)
            values[:] = 0
            values[present] = entries[group[present], indices[positions[present]], 0]
        if reader.scale is not None:
            values = (values * reader.scale.reshape(-1)[sampled // prod(shape[1:])]).astype(
                lut.dtype
            )
        return values

    return look_up


@compiled
def _stored_positions(mask: Mask, first: int, step: int, size: int) -> NDArray[np.int64]:
    """Return the position of each sampled weight among the stored ones; -1 if it is not stored.

    Shapes: (n,) -> (size,).
    """
    positions, next_index, count = np.empty(size, np.int64), 0, 0
    for sample in range(size):
        skipped = mask[next_index : first + sample * step]
        for i in range(skipped.size):
            count += int(skipped[i])
        next_index += skipped.size
        positions[sample] = count if mask[next_index] else -1
    return positions


@compiled
def _look_up_sample(
    indices: NDArray[np.uint8],
    lut: NDArray[np.floating],
    grid: tuple[int, int],
    layout: tuple[int, int, int],
    dense: NDArray[np.floating],
) -> None:
    """Fill the reconstructed values of every `step`-th weight.

    Shapes: indices (rows / dim, columns), lut (groups, K, dim) -> dense (n,).
    """
    (first, step), (axis, size, inner) = grid, layout
    columns, dim = indices.shape[1], lut.shape[2]
    row, column = divmod(first, columns)
    more_rows, more_columns = divmod(step, columns)
    cell_row, lane = divmod(row, dim)
    group = row // size if axis == 0 else 0
    for i in range(dense.size):
        if axis == 1:
            group = np.int64(np.uint32(column) // np.uint32(inner * size))
        dense[i] = lut[group, indices[cell_row, column], lane]
        column += more_columns
        carry = int(column >= columns)
        if more_rows + carry > 0:
            column -= carry * columns
            row += more_rows + carry
            cell_row, lane = divmod(row, dim)
            group = row // size if axis == 0 else 0


@compiled
def _largest(values: NDArray[np.floating]) -> float:
    largest = 0.0
    for i in range(values.size):
        largest = max(largest, abs(np.float64(values[i])))
    return largest


@compiled
def _histogram(values: NDArray[np.floating], exponent: int) -> NDArray[np.int64]:
    counts = np.zeros(CELLS, np.int64)
    half_exponent = -exponent // 2  # in two factors, since 2**-exponent may overflow
    scale, other_scale = ldexp(1.0, half_exponent), ldexp(1.0, -exponent - half_exponent)
    for i in range(values.size):
        counts[int(np.floor(np.float64(values[i]) * scale * other_scale)) + CELLS // 2] += 1
    return counts


def _merge_cells(cells: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    sums = np.zeros(CELLS, np.int64)
    np.add.at(sums, cells, counts)
    return sums
