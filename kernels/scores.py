"""Scores: error and size of a weight's palettes at several widths and granularities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels import metrics
from palettery.kernels.arrays import to_numpy, upcast
from palettery.kernels.errors import NonFiniteError, SettingsError
from palettery.kernels.groups import group_layout
from palettery.kernels.lut import EncodedLut, build_lut
from palettery.kernels.palette import decode, reconstruct
from palettery.kernels.palettize import palettize, weight_reader
from palettery.kernels.rows_palette import RowSource
from palettery.kernels.scalar import cpu
from palettery.kernels.scalar.palettize import assign_and_measure
from palettery.kernels.settings import N_BITS, PaletteSettings
from palettery.kernels.streaming import BLOCK_ELEMENTS, RowPasses, can_stream
from palettery.kernels.threads import CancellationCheck, never_cancel
from palettery.kernels.weight_reader import WeightReader, raise_non_finite


@dataclass(frozen=True)
class Score:
    """Error and size of the palettes of one choice: a width and a group size."""

    n_bits: int
    group_size: int | None
    error: float
    """Sum of squared errors; with sensitivities, each times its sensitivity."""
    size_bytes: int
    """Bytes in an artifact: packed indices, LUTs and scales, and the mask of a sparse weight."""


@dataclass(frozen=True)
class Scores:
    """Scores of one weight, in the order of the choices: by group size, then by width."""

    choices: tuple[Score, ...]
    signal: float
    """Sum of squared weights; with sensitivities, each times its sensitivity."""


def palette_scores(
    weight: Any,
    settings: PaletteSettings,
    n_bits: Sequence[int] = N_BITS,
    group_sizes: Sequence[int | None] = (None, 16),
    sensitivity: Any = None,
    threads: int | None = None,
    check_cancelled: CancellationCheck | None = None,
) -> Scores:
    """Return error and size of what `palettize` would give at every width and group size.

    Each choice replaces `n_bits` and `group_size` of the settings. The errors are bit for bit those
    of `palettize` on the CPU; with sensitivities, those that `metrics.weighted_errors`
    computes of the reconstruction. Groups are read, sorted and rounded once for all widths;
    palettes of vectors are computed one by one.

    Raises:
        SettingsError: there is no choice.
        PaletteError: as in `palettize`, for any choice.
    """
    _check_not_empty(n_bits, group_sizes)
    array, check_cancelled = to_numpy(weight), check_cancelled or never_cancel
    try:
        return _whole_scores(
            array, settings, n_bits, group_sizes, sensitivity, threads, check_cancelled
        )
    except NonFiniteError:
        raise_non_finite([array], array.shape)


def palette_scores_rows(
    rows: RowSource,
    settings: PaletteSettings,
    n_bits: Sequence[int] = N_BITS,
    group_sizes: Sequence[int | None] = (None, 16),
    sensitivity: RowSource | None = None,
    threads: int | None = None,
    check_cancelled: CancellationCheck | None = None,
) -> Scores:
    """Return what `palette_scores` does, for a tensor that is read in blocks.

    Blocks are those of `palettize_rows`, or consecutive whole groups on axis 0. Errors of blocks
    are added up, so they may differ from those of the whole tensor in their last bits. All other
    tensors are read at once, also those with groups on axis 0 and a sparsity threshold, since the
    zeros of the whole tensor decide whether it is sparse.

    Raises:
        PaletteError: as in `palette_scores`.
    """
    _check_not_empty(n_bits, group_sizes)
    choices: list[Score] = []
    check_cancelled, signal = check_cancelled or never_cancel, 0.0
    for size in group_sizes:
        sized_settings = replace(settings, group_size=size)
        if can_stream(rows.shape, rows.dtype, sized_settings):
            size_scores = _streamed_scores(
                rows, sized_settings, n_bits, sensitivity, threads, check_cancelled
            )
        else:
            size_scores = _blockwise_scores(
                rows, sized_settings, n_bits, sensitivity, threads, check_cancelled
            )
        choices += size_scores.choices
        signal = size_scores.signal
    return Scores(tuple(choices), signal)


def palette_bytes(
    shape: Sequence[int], settings: PaletteSettings, lut: EncodedLut, num_stored: int | None
) -> int:
    """Return the bytes of a palettized weight in an artifact, with the mask of a sparse weight.

    `num_stored` is the number of weights in the mask; None if the weight is not sparse.
    """
    count = prod(shape)
    num_indexed, mask = (count, 0) if num_stored is None else (num_stored, (count + 7) // 8)
    indices = (num_indexed // settings.cluster_dim * settings.n_bits + 7) // 8
    scales = 4 * shape[0] if settings.per_channel_scale else 0
    return indices + mask + scales + sum(array.nbytes for array in lut if array is not None)


def _check_not_empty(n_bits: Sequence[int], group_sizes: Sequence[int | None]) -> None:
    if not n_bits or not group_sizes:
        raise SettingsError(
            f"n_bits is {tuple(n_bits)} and group_sizes is {tuple(group_sizes)}; "
            "give at least one of each"
        )


def _whole_scores(
    weight: NDArray[Any],
    settings: PaletteSettings,
    n_bits: Sequence[int],
    group_sizes: Sequence[int | None],
    sensitivity: Any,
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> Scores:
    choices: list[Score] = []
    signal = 0.0
    compute_scores = _scalar_scores if settings.cluster_dim == 1 else _vector_scores
    for size in group_sizes:
        widths = [replace(settings, n_bits=bits, group_size=size) for bits in n_bits]
        reader, _ = weight_reader(weight, widths[0], sensitivity, threads, check_cancelled)
        num_stored = None if reader.mask is None else int(np.count_nonzero(reader.mask))
        for width, (error, signal, lut) in zip(
            widths, compute_scores(reader, widths, threads, check_cancelled), strict=True
        ):
            if not isfinite(error + signal):
                raise NonFiniteError
            size_bytes = palette_bytes(weight.shape, width, lut, num_stored)
            choices.append(Score(width.n_bits, size, error, size_bytes))
    return Scores(tuple(choices), signal)


def _scalar_scores(
    reader: WeightReader,
    widths: Sequence[PaletteSettings],
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> Iterator[tuple[float, float, EncodedLut]]:
    """Yield error, signal and encoded LUT of each width, from settings that differ only in it."""
    weight, layout = reader.weight, reader.layout
    ks = [2**width.n_bits for width in widths]
    clusters_by_width = cpu.cluster_each(
        reader, ks, widths[0].rounding_precision, threads, check_cancelled
    )
    for width, k, clusters in zip(widths, ks, clusters_by_width, strict=True):
        centroids = clusters.centroids.reshape(layout.lut_shape(k, 1))
        encoded, lut = build_lut(centroids, weight.dtype, width)
        indices, _, errors = assign_and_measure(
            reader, lut, cpu.assign_nearest, threads, check_cancelled
        )
        error, signal = errors.sse, errors.signal
        if reader.sensitivity is not None:
            dense = decode(indices, lut, reader, threads, check_cancelled)
            error, signal = metrics.weighted_errors(
                weight, dense, reader.sensitivity, threads, check_cancelled
            )
        yield error, signal, encoded


def _vector_scores(
    reader: WeightReader,
    widths: Sequence[PaletteSettings],
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> Iterator[tuple[float, float, EncodedLut]]:
    """Yield error, signal and encoded LUT of each width."""
    for width in widths:
        palette = palettize(
            reader.weight,
            width,
            reader.sensitivity,
            threads=threads,
            check_cancelled=check_cancelled,
        )
        assert palette.metrics is not None  # noqa: S101 - palettize always measures
        error, signal = palette.metrics.sse, palette.metrics.signal
        if reader.sensitivity is not None:
            error, signal = metrics.weighted_errors(
                reader.weight,
                reconstruct(palette, threads),
                reader.sensitivity,
                threads,
                check_cancelled,
            )
        yield error, signal, (palette.lut, palette.lut_scale, palette.lut_zero_point)


def _streamed_scores(
    rows: RowSource,
    settings: PaletteSettings,
    n_bits: Sequence[int],
    sensitivity: RowSource | None,
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> Scores:
    """Return the scores of one group size in passes over the rows, the last one for all errors."""
    layout = group_layout(rows.shape, settings)
    # Blocks that end on a whole byte at one bit a weight do so at any width.
    passes = RowPasses(
        rows, sensitivity, replace(settings, n_bits=1), layout, threads, check_cancelled
    )
    num_stored = passes.count_stored(None)
    passes = replace(passes, sparse=num_stored is not None)
    widths, sizes, luts = [replace(settings, n_bits=bits) for bits in n_bits], [], []
    try:
        if settings.per_channel_scale:
            passes = replace(passes, scale=passes.row_scale())
        for width, clusters in zip(
            widths, passes.cluster([2**bits for bits in n_bits]), strict=True
        ):
            centroids = clusters.centroids.reshape(layout.lut_shape(2**width.n_bits, 1))
            encoded, lut = build_lut(centroids, rows.dtype, width)
            sizes.append(palette_bytes(rows.shape, width, encoded, num_stored))
            luts.append(lut)
        errors, signal = _streamed_errors(passes, luts)
        if not isfinite(sum(errors) + signal):
            raise NonFiniteError
    except NonFiniteError:
        raise_non_finite((passes.read(*run) for run in passes.row_ranges()), rows.shape)
    return Scores(
        tuple(
            Score(width.n_bits, width.group_size, error, size_bytes)
            for width, error, size_bytes in zip(widths, errors, sizes, strict=True)
        ),
        signal,
    )


def _streamed_errors(passes: RowPasses, luts: Sequence[NDArray[Any]]) -> tuple[list[float], float]:
    """Return the error of each LUT, and the signal, in one pass over the rows."""
    groups, threads, check_cancelled = passes.layout.groups, passes.threads, passes.check_cancelled
    totals = [cpu.ErrorTotals(groups, lut.shape[-2]) for lut in luts]
    sums = np.zeros((len(luts), 2))
    for block in passes.row_ranges():
        reader = passes.reader(*block, weighted=True)
        for lut, total, lut_sums in zip(luts, totals, sums, strict=True):
            entries = upcast(lut).reshape(-1, lut.shape[-2])
            indices = cpu.assign_nearest(reader, entries, total, threads, check_cancelled)
            if not reader.weighted:
                continue
            dense = decode(indices, lut, reader, threads, check_cancelled)
            if reader.sensitivity is None:
                block_errors = metrics.errors(reader.weight, dense, threads, check_cancelled)
                lut_sums += block_errors.sse, block_errors.signal
            else:
                lut_sums += metrics.weighted_errors(
                    reader.weight, dense, reader.sensitivity, threads, check_cancelled
                )
    if passes.sensitivity is None and passes.scale is None:
        errors = [total.errors() for total in totals]
        return [lut_errors.sse for lut_errors in errors], errors[0].signal
    return [float(error) for error in sums[:, 0]], float(sums[0, 1])


def _blockwise_scores(
    rows: RowSource,
    settings: PaletteSettings,
    n_bits: Sequence[int],
    sensitivity: RowSource | None,
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> Scores:
    """Return the scores of one group size, added up over blocks of whole groups on axis 0."""
    height, size = rows.shape[0], settings.group_size
    group_layout(rows.shape, settings)
    block_rows = height
    can_cut = size is not None and settings.axis == 0 and settings.sparsity_threshold is None
    if size is not None and can_cut:  # eight rows of indices end on a whole byte
        block_rows = max(1, BLOCK_ELEMENTS // (8 * size * prod(rows.shape[1:]))) * 8 * size
    blocks = [(first, min(block_rows, height - first)) for first in range(0, height, block_rows)]
    parts = []
    for block in blocks:
        weight, importance = rows.read(*block), None
        if sensitivity is not None:
            importance = sensitivity.read(*block)
        try:
            parts.append(
                _whole_scores(
                    weight, settings, n_bits, (size,), importance, threads, check_cancelled
                )
            )
        except NonFiniteError:
            raise_non_finite((rows.read(*block) for block in blocks), rows.shape)
    return Scores(
        tuple(
            replace(
                block_scores[0],
                error=sum(score.error for score in block_scores),
                size_bytes=sum(score.size_bytes for score in block_scores),
            )
            for block_scores in zip(*(part.choices for part in parts), strict=True)
        ),
        sum(part.signal for part in parts),
    )
