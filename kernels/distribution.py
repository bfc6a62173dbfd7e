"""How weights are spread, and what they were replaced by: histograms of a sample of them."""

from dataclasses import dataclass
from math import ceil, frexp, gcd, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.groups import Layout
from palettery.kernels.source import widened

CELLS = 128
"""Of a histogram, as many below zero as above."""
SAMPLE = 1 << 15
"""Weights that are looked at, of a tensor that has more."""


@dataclass(frozen=True)
class Distribution:
    """Two histograms with the same cells, each 2**exponent wide, with zero between the middle two.

    Cells of one width are whole cells of twice that width, so histograms are added exactly.

    Shapes: (CELLS,) both.
    """

    exponent: int
    weights: NDArray[np.int64]
    """Weights of the sample."""
    reconstructed: NDArray[np.int64]
    """What stands for these weights."""

    @property
    def sampled(self) -> int:
        """Weights of the sample."""
        return int(self.weights.sum())

    def __add__(self, other: "Distribution") -> "Distribution":
        exponent = max(self.exponent, other.exponent)
        ours, theirs = self.widened(exponent), other.widened(exponent)
        return Distribution(
            exponent, ours.weights + theirs.weights, ours.reconstructed + theirs.reconstructed
        )

    def widened(self, exponent: int) -> "Distribution":
        """The same with cells that are so wide, or as wide as they are already."""
        shift = min(max(0, exponent - self.exponent), 62)
        cells = ((np.arange(CELLS) - CELLS // 2) >> shift) + CELLS // 2
        return Distribution(
            max(self.exponent, exponent),
            _summed(cells, self.weights),
            _summed(cells, self.reconstructed),
        )


def step_of(shape: tuple[int, ...]) -> int:
    """Every which weight is of the sample; never in step with the rows.

    Units: weights, in row-major order.
    """
    step = max(1, ceil(prod(shape) / SAMPLE))
    while gcd(step, prod(shape[1:])) > 1:
        step += 1
    return step


def distribution(
    weight: NDArray[Any],
    indices: NDArray[np.uint8],
    lut: NDArray[Any],
    scale: NDArray[np.float32] | None,
    layout: Layout,
    sampling: tuple[int, int] | None = None,
) -> Distribution:
    """Histograms of a tensor's sample, or of what of it lies in some of its rows.

    `sampling` is the number of the first weight and the step of the whole tensor; None: this is it.

    Shapes: weight, indices, lut in the weight's dtype, and scale as in `Palette`.
    """
    start, step = sampling or (0, step_of(weight.shape))
    entries, dim = lut.shape[-2:]
    at = np.unravel_index(np.arange(-start % step, weight.size, step), weight.shape)
    cells = indices[(at[0] // dim, *at[1:])]
    groups = at[layout.axis] // layout.size
    dense = widened(lut.reshape(-1, entries, dim)[groups, cells, at[0] % dim])
    if scale is not None:
        dense = widened((dense * scale.reshape(-1)[at[0]]).astype(weight.dtype))
    values = widened(weight[at]).astype(np.float64), dense.astype(np.float64)
    largest = max((float(np.abs(each).max()) for each in values if each.size), default=0.0)
    exponent = frexp(largest)[1] - (CELLS // 2).bit_length() + 1
    return Distribution(exponent, *(_counted(each, exponent) for each in values))


def _counted(values: NDArray[np.float64], exponent: int) -> NDArray[np.int64]:
    cells = np.floor(np.ldexp(values, -exponent)).astype(np.int64) + CELLS // 2
    return np.bincount(cells, minlength=CELLS)


def _summed(cells: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    sums = np.zeros(CELLS, np.int64)
    np.add.at(sums, cells, counts)
    return sums
