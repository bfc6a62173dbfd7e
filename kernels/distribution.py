"""Histograms of a sample of a tensor's weights, before and after palettization."""

from dataclasses import dataclass
from math import ceil, frexp, gcd, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import upcast
from palettery.kernels.groups import GroupLayout

CELLS = 128
"""Cells of a histogram, half of them below zero."""
SAMPLE = 1 << 15
"""Largest number of weights in a sample."""


@dataclass(frozen=True)
class Distribution:
    """Two histograms with the same cells, each 2**exponent wide; zero separates the middle two.

    Two adjacent cells make one cell of twice the width, so histograms can be added exactly.

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
            _add_by_cell(cells, self.weights),
            _add_by_cell(cells, self.reconstructed),
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
    weight: NDArray[Any],
    indices: NDArray[np.uint8],
    lut: NDArray[Any],
    scale: NDArray[np.float32] | None,
    layout: GroupLayout,
    sampling: tuple[int, int] | None = None,
) -> Distribution:
    """Return the histograms of a sample of a tensor, or of the part of the sample in some rows.

    `sampling` is the position of the first weight in the whole tensor and the sampling step of the
    whole tensor; None means that `weight` is the whole tensor.

    Shapes: weight, indices, lut in the weight's dtype, and scale as in `Palette`.
    """
    start, step = sampling or (0, sampling_step(weight.shape))
    entries, dim = lut.shape[-2:]
    at = np.unravel_index(np.arange(-start % step, weight.size, step), weight.shape)
    cells = indices[(at[0] // dim, *at[1:])]
    groups = at[layout.axis] // layout.size
    dense = upcast(lut.reshape(-1, entries, dim)[groups, cells, at[0] % dim])
    if scale is not None:
        dense = upcast((dense * scale.reshape(-1)[at[0]]).astype(weight.dtype))
    values = upcast(weight[at]).astype(np.float64), dense.astype(np.float64)
    largest = max((float(np.abs(each).max()) for each in values if each.size), default=0.0)
    exponent = frexp(largest)[1] - (CELLS // 2).bit_length() + 1
    return Distribution(exponent, *(_histogram(each, exponent) for each in values))


def _histogram(values: NDArray[np.float64], exponent: int) -> NDArray[np.int64]:
    cells = np.floor(np.ldexp(values, -exponent)).astype(np.int64) + CELLS // 2
    return np.bincount(cells, minlength=CELLS)


def _add_by_cell(cells: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    sums = np.zeros(CELLS, np.int64)
    np.add.at(sums, cells, counts)
    return sums
