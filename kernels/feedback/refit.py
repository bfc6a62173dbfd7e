"""Palettes that minimise the output error of a layer for a fixed assignment, by least squares."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.feedback.assignment import residuals, subtract_lut
from palettery.kernels.feedback.problem import Chunk, Floats, Labels, LayerProblem
from palettery.kernels.jit import compiled, compiled_for_sums, compiled_inline
from palettery.kernels.threads import CancellationCheck, parallel_map

Encode = Callable[[Floats], Floats]
"""Function that rounds, and quantizes, palettes (palettes, K, dim) as the artifact stores them."""
_ColumnIndex = slice | NDArray[np.int64]
_TILE_COLUMNS = 64
_RELATIVE_RIDGE = 1e-9
"""Ridge relative to the mean diagonal; without it, unused entries make the equations singular."""


@dataclass(frozen=True)
class _Equations:
    """Normal equations of least squares for each run of a chunk, for some columns."""

    normal: Floats
    """(runs, systems, K, K): a system for each of the dim rows of a vector, or one if all rows have
    the same weight."""
    right: Floats
    """(runs, K, dim)."""
    error: float
    """Part of the layer's output error that these columns contribute."""


def refit(
    problem: LayerProblem,
    labels: Labels,
    centroids: Floats,
    encode: Encode,
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> tuple[Floats, float]:
    """Return palettes refitted to an assignment, none worse than before, and the output error.

    With Z the one-hot labels of a row and E = (w - q) H its gradient, the best change d of a
    palette solves (sum s^2 Z^T H Z) d = sum s^2 Z^T E, summed over the rows with their scales s.
    Palettes of columns depend on one another through H, so they are solved one after the other.

    Shapes: centroids (palettes, K, dim) -> the same.
    Source: GPTVQ (arXiv 2402.15319), LNQ (arXiv 2505.07004).
    """
    centroids = centroids.copy()
    luts = encode(centroids)
    labelled_chunks = list(zip(problem.chunks, labels, strict=True))

    def errors_of(labelled_chunk: tuple[Chunk, NDArray[np.uint8]]) -> Floats:
        return residuals(problem, labelled_chunk[0], luts, labelled_chunk[1])

    errors = parallel_map(errors_of, labelled_chunks, threads, check_cancelled)
    for palettes, columns in _independent_palettes(problem, len(luts)):

        def equations(chunk_number: int, columns: _ColumnIndex = columns) -> _Equations:
            chunk, chunk_labels = labelled_chunks[chunk_number]
            return _equations(
                problem, chunk, chunk_labels, columns, errors[chunk_number], luts.shape[1]
            )

        parts = parallel_map(equations, range(len(labelled_chunks)), threads, check_cancelled)
        normal, right = _sum_by_palette(problem.chunks, parts, palettes)
        error = sum(part.error for part in parts)
        candidates = centroids.copy()
        candidates[palettes] += _solve(normal, right)
        step = (encode(candidates) - luts)[palettes]
        decreases = _error_decreases(normal, right, step)
        step[~(decreases > 0)] = 0
        better = (step != 0).any(axis=(1, 2))
        chosen = np.arange(len(luts))[palettes][better]
        centroids[chosen] = candidates[chosen]
        if isinstance(columns, slice):
            return centroids, error - float(decreases[better].sum())
        for (chunk, chunk_labels), chunk_errors in zip(labelled_chunks, errors, strict=True):
            chunk_errors[columns] = subtract_lut(
                problem, chunk, step, chunk_labels[columns], chunk_errors[columns], columns
            )
    return centroids, output_error(problem, errors, threads, check_cancelled)


def output_error(
    problem: LayerProblem,
    errors: Sequence[Floats],
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> float:
    """Return the damped error of the layer's outputs from the errors of each chunk's weights."""

    def chunk_error(part: tuple[Chunk, Floats]) -> float:
        chunk, chunk_errors = part
        flat = chunk_errors.reshape(len(chunk_errors), -1)
        products = (problem.inputs.moments[chunk.group] @ flat) * flat
        return float(products.sum(axis=0) @ problem.row_weights(chunk).reshape(-1))

    parts = list(zip(problem.chunks, errors, strict=True))
    return sum(parallel_map(chunk_error, parts, threads, check_cancelled))


def _independent_palettes(
    problem: LayerProblem, palettes: int
) -> Iterator[tuple[slice, _ColumnIndex]]:
    """Yield sets of palettes that can be solved independently, each with the columns it covers."""
    if problem.reader.layout.axis == 0:
        yield slice(0, palettes), slice(None)
        return
    for palette in range(palettes):
        yield slice(palette, palette + 1), np.flatnonzero(problem.column_palettes == palette)


def _equations(
    problem: LayerProblem,
    chunk: Chunk,
    labels: NDArray[np.uint8],
    columns: _ColumnIndex,
    errors: Floats,
    k: int,
) -> _Equations:
    """Return the normal equations of each run of a chunk.

    Shapes: labels (columns, vectors), errors (columns, dim, vectors).
    """
    moments = problem.inputs.moments[chunk.group]
    column_moments = moments if isinstance(columns, slice) else moments[np.ix_(columns, columns)]
    flat = errors.reshape(len(errors), -1)
    gradient = (moments[columns] @ flat).reshape(-1, *errors.shape[1:])
    weights, mask = problem.row_weights(chunk), problem.mask(chunk)
    entries = labels[columns].astype(np.int64)
    if mask.size:
        entries[~mask[columns]] = k  # extra entry, removed from the result
    runs, dim = chunk.palettes.size, errors.shape[1]
    normal = np.zeros((runs, 1 if problem.reader.scale is None else dim, k + 1, k + 1))
    right = np.zeros((runs, k + 1, dim))
    _add_normal(np.ascontiguousarray(entries.T), column_moments, weights, chunk.starts, normal)
    _add_right(entries, gradient, weights, chunk.starts, right)
    normal = normal + normal.swapaxes(-2, -1)
    error = float(((errors[columns] * gradient).sum(axis=0) * weights).sum())
    return _Equations(normal[..., :k, :k], right[:, :k], error)


def _sum_by_palette(
    chunks: Sequence[Chunk], parts: Sequence[_Equations], palettes: slice
) -> tuple[Floats, Floats]:
    """Add up equations over chunks, in their order."""
    count = palettes.stop - palettes.start
    normal = np.zeros((count, *parts[0].normal.shape[1:]))
    right = np.zeros((count, *parts[0].right.shape[1:]))
    for chunk, part in zip(chunks, parts, strict=True):
        normal[chunk.palettes] += part.normal
        right[chunk.palettes] += part.right
    return normal, right


def _solve(normal: Floats, right: Floats) -> Floats:
    """Return the changes of palettes. Shapes: (P, systems, K, K), (P, K, dim) -> (P, K, dim)."""
    means = np.trace(normal, axis1=2, axis2=3) / normal.shape[-1]
    ridge = np.where(means > 0, means * _RELATIVE_RIDGE, 1.0)[..., None, None]
    solved = np.linalg.solve(normal + ridge * np.eye(normal.shape[-1]), _right_sides(normal, right))
    if normal.shape[1] == 1:
        return solved[:, 0].astype(np.float64, copy=False)
    return solved[..., 0].swapaxes(1, 2).astype(np.float64, copy=False)


def _right_sides(normal: Floats, right: Floats) -> Floats:
    """Return right sides as (P, 1, K, dim) for a single system, or else as (P, dim, K, 1)."""
    if normal.shape[1] == 1:
        return right[:, None]
    return np.moveaxis(right, -1, 1)[..., None]


def _error_decreases(normal: Floats, right: Floats, step: Floats) -> Floats:
    """Return by how much a step decreases the error of each palette, (P,)."""
    sides, steps = _right_sides(normal, right), _right_sides(normal, step)
    with np.errstate(over="ignore", invalid="ignore"):  # NaN is not positive: no step
        gains: Floats = (steps * (2 * sides - normal @ steps)).sum(axis=(1, 2, 3))
    return gains


@compiled_for_sums
def _add_normal(
    entries: NDArray[np.int64],
    moments: Floats,
    weights: Floats,
    starts: NDArray[np.int64],
    normal: Floats,
) -> None:
    """Add a matrix A for every vector to the equations of its run, where A + A^T = Z^T H Z.

    H is symmetric, so its tiles below the diagonal, and half of those on the diagonal, suffice.

    Shapes: entries (n, C), moments (C, C), weights (dim, n), normal (runs, systems, K + 1, K + 1).
    """
    size, systems = normal.shape[-1], normal.shape[1]
    sums = np.empty((size, _TILE_COLUMNS))
    for first in range(0, moments.shape[0], _TILE_COLUMNS):
        last = min(first + _TILE_COLUMNS, moments.shape[0])
        for run in range(starts.size - 1):
            for i in range(starts[run], starts[run + 1]):
                sums[:] = 0
                for j in range(first, last):
                    _add_row(moments[j, first:last], sums[entries[i, j]])
                sums *= 0.5
                for j in range(last, moments.shape[0]):
                    _add_row(moments[j, first:last], sums[entries[i, j]])
                for t in range(last - first):
                    for system in range(systems):
                        row = normal[run, system, entries[i, first + t]]
                        for k in range(size):
                            row[k] += weights[system, i] * sums[k, t]


@compiled_inline
def _add_row(row: Floats, total: Floats) -> None:
    for t in range(row.size):
        total[t] += row[t]


@compiled
def _add_right(
    entries: NDArray[np.int64],
    gradient: Floats,
    weights: Floats,
    starts: NDArray[np.int64],
    right: Floats,
) -> None:
    """Add Z^T E of every vector. Shapes: entries (C, n), gradient (C, dim, n)."""
    for j in range(gradient.shape[0]):
        for run in range(starts.size - 1):
            for t in range(gradient.shape[1]):
                for i in range(starts[run], starts[run + 1]):
                    right[run, entries[j, i], t] += weights[t, i] * gradient[j, t, i]
