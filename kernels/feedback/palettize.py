"""Palettes that minimise the error of a layer's outputs: assignment and least squares by turns."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels import metrics
from palettery.kernels.distribution import sample_dense, sample_distribution
from palettery.kernels.feedback.assignment import assign_by_descent, assign_with_feedback
from palettery.kernels.feedback.layer_inputs import LayerInputs
from palettery.kernels.feedback.problem import Chunk, Floats, Labels, LayerProblem
from palettery.kernels.feedback.refit import Encode, refit
from palettery.kernels.lut import build_lut, dense_lut, encode_lut, zeroed_palette_notes
from palettery.kernels.metrics import Metrics, OutputErrors
from palettery.kernels.palette import Palette, decode, reconstruct
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.sparsity import take_stored
from palettery.kernels.threads import CancellationCheck, parallel_map, single_blas_thread
from palettery.kernels.weight_reader import WeightReader

MAX_ROUNDS = 8
MIN_RELATIVE_GAIN = 0.005
"""Relative decrease of the error by a round, below which it is the last one."""


@dataclass(frozen=True)
class Round:
    """Result of one round: an assignment and the palettes fitted to it."""

    labels: Labels
    centroids: Floats
    """Palette entries before rounding and quantization, (palettes, K, dim)."""
    error: float
    """Error of the layer's outputs under the damped, normalised moments of `LayerInputs`."""


def palettize_with_feedback(
    baseline: Palette,
    initial: Palette,
    reader: WeightReader,
    settings: PaletteSettings,
    inputs: LayerInputs,
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> Palette:
    """Return the palette of least tr((W - Q) H (W - Q)^T) among all rounds and `baseline`.

    The rounds start from `initial`, a palette weighted by the diagonal of H; palettes weighted by
    the sensitivities of a calibration were worse starts in experiments.

    Shapes: those of `Palette`.
    """
    if reason := why_unsuitable(reader, settings, inputs):
        assert baseline.metrics is not None  # noqa: S101 - palettize always measures
        return replace(baseline, metrics=baseline.metrics.with_notes((reason,)))
    problem = LayerProblem(reader, inputs, settings.cluster_dim)
    with single_blas_thread():
        rounds = list(run_rounds(problem, initial, settings, threads, check_cancelled))
        best = min(rounds, key=lambda result: result.error)
        palette, dense = _build_palette(
            problem, best, settings, len(rounds), threads, check_cancelled
        )
        output = measure_outputs(
            problem, dense, reconstruct(baseline, threads), threads, check_cancelled
        )
    if not output.sse < output.plain_sse:
        palette, output = baseline, replace(output, sse=output.plain_sse)
    assert palette.metrics is not None  # noqa: S101 - both are measured
    return replace(palette, metrics=replace(palette.metrics, output=output))


def why_unsuitable(
    reader: WeightReader, settings: PaletteSettings, inputs: LayerInputs
) -> str | None:
    """Return why error feedback cannot be used with these settings; None if it can be."""
    dim, rows = settings.cluster_dim, reader.weight.shape[0] // inputs.groups
    if dim > 1 and reader.mask is not None:
        return "error feedback is not used: it does not support vectors of sparse weights"
    if rows % dim:
        return (
            f"error feedback is not used: vectors of {dim} rows do not fit the {rows} rows of each "
            "group of the convolution"
        )
    return None


def run_rounds(
    problem: LayerProblem,
    initial: Palette,
    settings: PaletteSettings,
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> Iterator[Round]:
    """Yield the result of each round: assign all vectors, then fit the palettes by least squares.

    The first round assigns with error feedback, and its error may exceed that of `initial`. Further
    rounds improve the labels of the previous round by coordinate descent.
    """
    encode = _encode_function(problem.reader, settings)
    labels, centroids = _labels_and_centroids(problem, initial)
    previous_error = inf
    for number in range(MAX_ROUNDS):
        luts = encode(centroids)

        def assign_chunk(
            part: tuple[Chunk, NDArray[np.uint8]], number: int = number, luts: Floats = luts
        ) -> NDArray[np.uint8]:
            if number == 0:
                return assign_with_feedback(problem, part[0], luts)
            return assign_by_descent(problem, part[0], luts, part[1])

        parts = list(zip(problem.chunks, labels, strict=True))
        labels = parallel_map(assign_chunk, parts, threads, check_cancelled)
        centroids, error = refit(problem, labels, centroids, encode, threads, check_cancelled)
        yield Round(labels, centroids, error)
        if not error < previous_error * (1 - MIN_RELATIVE_GAIN):
            return
        previous_error = error


def measure_outputs(
    problem: LayerProblem,
    dense: NDArray[Any],
    baseline: NDArray[Any],
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> OutputErrors:
    """Return the output errors of the reconstruction `dense` and of `baseline`, and the signal.

    Shapes: dense and baseline like the weight.
    """

    def energy(chunk: Chunk, rows: Floats) -> float:
        flat = rows.reshape(len(rows), -1)
        damped = float(((problem.inputs.moments[chunk.group] @ flat) * flat).sum())
        return damped - float(problem.inputs.damping[chunk.group] * np.square(flat).sum())

    def chunk_energies(chunk: Chunk) -> tuple[float, float, float]:
        values = problem.by_column(problem.reader.weight, chunk)
        errors, baseline_errors = (
            values - problem.by_column(weights, chunk) for weights in (dense, baseline)
        )
        return energy(chunk, errors), energy(chunk, values), energy(chunk, baseline_errors)

    parts = parallel_map(chunk_energies, problem.chunks, threads, check_cancelled)
    return OutputErrors(
        *(problem.inputs.unit * max(0.0, sum(energies)) for energies in zip(*parts, strict=True))
    )


def _encode_function(reader: WeightReader, settings: PaletteSettings) -> Encode:
    """Return a function that rounds, and quantizes, palette entries as the artifact stores them."""
    dtype = reader.weight.dtype

    def encode(centroids: Floats) -> Floats:
        shape = reader.layout.lut_shape(*centroids.shape[1:])
        encoded = encode_lut(centroids.reshape(shape), dtype, settings)
        dense = dense_lut(encoded[0], dtype, *encoded[1:])
        return dense.astype(np.float64).reshape(centroids.shape)

    return encode


def _labels_and_centroids(problem: LayerProblem, palette: Palette) -> tuple[Labels, Floats]:
    """Return the labels of a palette, and its entries (palettes, K, dim)."""
    dense = dense_lut(palette.lut, palette.dtype, palette.lut_scale, palette.lut_zero_point)
    indices = palette.indices
    if palette.mask is not None:
        indices = np.zeros(palette.shape, np.uint8)
        indices[palette.mask] = palette.indices
    return problem.labels(indices), dense.astype(np.float64).reshape(-1, *dense.shape[-2:])


def _build_palette(
    problem: LayerProblem,
    best: Round,
    settings: PaletteSettings,
    iterations: int,
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> tuple[Palette, NDArray[Any]]:
    """Return the palette of the best round with its metrics, and the reconstructed weight."""
    reader = problem.reader
    weight, layout = reader.weight, reader.layout
    centroids = best.centroids.reshape(layout.lut_shape(*best.centroids.shape[1:]))
    (lut_entries, lut_scale, zero_point), lut = build_lut(centroids, weight.dtype, settings)
    all_indices = problem.indices(best.labels)
    mask = reader.mask
    indices = (
        all_indices if mask is None else take_stored(all_indices.reshape(-1), mask.reshape(-1))
    )
    dense = decode(indices, lut, reader, threads, check_cancelled)
    errors = metrics.errors(weight, dense, threads, check_cancelled)
    palette = Palette(
        indices=indices,
        lut=lut_entries,
        shape=weight.shape,
        dtype=weight.dtype,
        lut_scale=lut_scale,
        lut_zero_point=zero_point,
        per_channel_scale=reader.scale,
        mask=reader.mask,
        metrics=Metrics(
            sse=errors.sse,
            signal=errors.signal,
            max_error=errors.max_error,
            group_sse=metrics.group_sse(weight, dense, layout, threads, check_cancelled),
            occupancy=_occupancy(problem, best.labels, len(best.centroids), lut.shape[-2]),
            iterations=iterations,
            distribution=sample_distribution(weight, sample_dense(dense)),
            notes=zeroed_palette_notes(centroids, lut, settings),
        ),
    )
    return palette, dense


def _occupancy(
    problem: LayerProblem, labels: Labels, num_palettes: int, k: int
) -> NDArray[np.int64]:
    """Return the number of indices that point to each entry. Shapes: -> (palettes, K)."""
    counts = np.zeros(num_palettes * k, np.int64)
    for chunk, chunk_labels in zip(problem.chunks, labels, strict=True):
        palette_numbers = np.repeat(chunk.palettes, np.diff(chunk.starts))
        entries = (problem.column_palettes[:, None] + palette_numbers) * k + chunk_labels
        mask = problem.mask(chunk)
        counts += np.bincount(
            entries[mask] if mask.size else entries.reshape(-1), minlength=counts.size
        )
    return counts.reshape(num_palettes, k)
