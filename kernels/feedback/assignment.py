"""Assignment of weights to palette entries, column by column, under second moments."""

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.feedback.problem import Chunk, Floats, LayerProblem
from palettery.kernels.jit import compiled

BLOCK_COLUMNS = 64
"""Columns per block; the errors of a block affect later blocks by one matrix product."""


def assign_with_feedback(problem: LayerProblem, chunk: Chunk, luts: Floats) -> NDArray[np.uint8]:
    """Return the nearest entries' labels; later columns compensate the errors of earlier ones.

    Shapes: luts (palettes, K, dim) -> (columns, vectors).
    Source: GPTQ (arXiv 2210.17323).
    """
    values, factor = problem.values(chunk), problem.inputs.feedback[chunk.group]
    errors, labels = np.empty_like(values), np.empty(values.shape[::2], np.uint8)
    for first in range(0, len(values), BLOCK_COLUMNS):
        block = slice(first, first + BLOCK_COLUMNS)
        targets = values[block]
        if first:
            correction = factor[:first, block].T @ errors[:first].reshape(first, -1)
            targets -= correction.reshape(targets.shape)
        block_factor = np.ascontiguousarray(factor[block, block])
        _assign(problem, chunk, luts, block, targets, targets, block_factor, labels, errors[block])
    return labels


def assign_by_descent(
    problem: LayerProblem, chunk: Chunk, luts: Floats, labels: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return labels after one pass that moves each to its best entry with all others fixed.

    For a row with second moments H, errors e and current entry q_j in column j, the best entry is
    the one nearest to q_j + (e H)_j / H_jj. So the error of the row never grows.

    Shapes: luts (palettes, K, dim), labels (columns, vectors) -> the same.
    Source: cyclic coordinate descent, as in LNQ (arXiv 2505.07004).
    """
    values, moments = problem.values(chunk), problem.inputs.moments[chunk.group]
    errors = residuals(problem, chunk, luts, labels, values)
    labels, diagonal = labels.copy(), np.diagonal(moments).copy()
    diagonal[diagonal <= 0] = 1
    flat = errors.reshape(len(errors), -1)
    for first in range(0, len(values), BLOCK_COLUMNS):
        block = slice(first, first + BLOCK_COLUMNS)
        weights = values[block] - errors[block]
        gradient = (moments[block] @ flat).reshape(weights.shape)
        targets = weights + gradient / diagonal[block, None, None]
        block_factor = np.ascontiguousarray(-moments[block, block] / diagonal[block])
        error_changes = np.empty_like(weights)
        _assign(problem, chunk, luts, block, targets, weights, block_factor, labels, error_changes)
        errors[block] += error_changes
    return labels


def residuals(
    problem: LayerProblem,
    chunk: Chunk,
    luts: Floats,
    labels: NDArray[np.uint8],
    values: Floats | None = None,
) -> Floats:
    """Return the weights of a chunk minus their entries. Shapes: -> (columns, dim, vectors)."""
    errors = problem.values(chunk) if values is None else values.copy()
    _subtract_entries(
        errors, labels, luts, problem.column_palettes, chunk.starts, chunk.palettes,
        problem.mask(chunk),
    )  # fmt: skip
    return errors


def subtract_lut(
    problem: LayerProblem,
    chunk: Chunk,
    lut: Floats,
    labels: NDArray[np.uint8],
    errors: Floats,
    columns: NDArray[np.int64],
) -> Floats:
    """Subtract the entries of a single LUT from the errors of some columns, in place; return them.

    Shapes: lut (1, K, dim), labels (columns, vectors), errors (columns, dim, vectors) -> same.
    """
    mask = problem.mask(chunk)
    mask = mask[columns] if mask.size else mask
    zeros = np.zeros(len(labels), np.int64)
    _subtract_entries(errors, labels, lut, zeros, chunk.starts, chunk.palettes, mask)
    return errors


def _assign(
    problem: LayerProblem,
    chunk: Chunk,
    luts: Floats,
    block: slice,
    targets: Floats,
    weights: Floats,
    factor: Floats,
    labels: NDArray[np.uint8],
    errors: Floats,
) -> None:
    _assign_block(
        targets, weights, factor, luts, problem.column_palettes[block], chunk.starts,
        chunk.palettes, problem.row_weights(chunk), problem.mask(chunk)[block], labels[block],
        errors,
    )  # fmt: skip


@compiled
def _assign_block(
    targets: Floats,
    weights: Floats,
    factor: Floats,
    luts: Floats,
    column_palettes: NDArray[np.int64],
    starts: NDArray[np.int64],
    palettes: NDArray[np.int64],
    row_weights: Floats,
    mask: NDArray[np.bool_],
    labels: NDArray[np.uint8],
    errors: Floats,
) -> None:
    """Fill the labels of the entries nearest to `targets`, and errors = weights - entries.

    Column by column: the errors of a column, times its row of `factor`, are subtracted from the
    targets of later columns. `weights` may be the same array as `targets`.

    Shapes: targets, weights, errors (B, dim, n), factor (B, B), luts (P, K, dim), row_weights
        (dim, n), mask (B, n), or (0, 0) for a dense weight, labels (B, n).
    """
    _, dim, n = targets.shape
    distance, nearest_distance, index = np.empty(n), np.empty(n), np.empty(n)
    for j in range(targets.shape[0]):
        for run in range(palettes.size):
            lut = luts[palettes[run] + column_palettes[j]]
            first, last = starts[run], starts[run + 1]
            _find_nearest(
                targets[j], lut, row_weights, first, last, distance, nearest_distance, index
            )
            for i in range(first, last):
                labels[j, i] = np.uint8(index[i])
            for t in range(dim):
                for i in range(first, last):
                    errors[j, t, i] = weights[j, t, i] - lut[labels[j, i], t]
        if mask.size > 0:
            for i in range(n):
                if not mask[j, i]:
                    labels[j, i] = 0
                    errors[j, 0, i] = weights[j, 0, i]
        for next_column in range(j + 1, targets.shape[0]):
            coefficient = factor[j, next_column]
            for t in range(dim):
                for i in range(n):
                    targets[next_column, t, i] -= errors[j, t, i] * coefficient


@compiled
def _find_nearest(
    targets: Floats,
    lut: Floats,
    weights: Floats,
    first: int,
    last: int,
    distance: Floats,
    nearest_distance: Floats,
    index: Floats,
) -> None:
    """Fill the index of the entry nearest to vectors first to last; of equal ones, the first.

    Shapes: targets, weights (dim, n), lut (K, dim); distance, nearest_distance, index (n,).
    """
    for i in range(first, last):
        nearest_distance[i] = np.inf
        index[i] = 0
    for k in range(lut.shape[0]):
        for i in range(first, last):
            difference = targets[0, i] - lut[k, 0]
            distance[i] = weights[0, i] * difference * difference
        for t in range(1, targets.shape[0]):
            for i in range(first, last):
                difference = targets[t, i] - lut[k, t]
                distance[i] += weights[t, i] * difference * difference
        for i in range(first, last):
            previous = index[i]
            index[i] = previous + (k - previous if distance[i] < nearest_distance[i] else 0.0)
            nearest_distance[i] = min(nearest_distance[i], distance[i])


@compiled
def _subtract_entries(
    errors: Floats,
    labels: NDArray[np.uint8],
    luts: Floats,
    column_palettes: NDArray[np.int64],
    starts: NDArray[np.int64],
    palettes: NDArray[np.int64],
    mask: NDArray[np.bool_],
) -> None:
    """Subtract the entries of the weights in the mask, in place. Shapes: as in `_assign_block`."""
    for j in range(errors.shape[0]):
        for run in range(palettes.size):
            lut = luts[palettes[run] + column_palettes[j]]
            for t in range(errors.shape[1]):
                for i in range(starts[run], starts[run + 1]):
                    if mask.size == 0 or mask[j, i]:
                        errors[j, t, i] -= lut[labels[j, i], t]
