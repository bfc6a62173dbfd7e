"""Scalar palettes on the CPU: optimal centroids of every group, and assignment of the values."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.float16 import code_values, infinity_code
from palettery.kernels.groups import GroupLayout
from palettery.kernels.metrics import Errors
from palettery.kernels.scalar import large_groups
from palettery.kernels.scalar.assign import assign, cell_thresholds, measure_errors
from palettery.kernels.scalar.counting import assign_codes, cell_starts, measure_counts
from palettery.kernels.scalar.dtype_refinement import refine_entries
from palettery.kernels.scalar.group_points import group_points
from palettery.kernels.scalar.large_groups import (
    LANES,
    Block,
    cluster_large,
    ks_by_tables,
    lanes_per_group,
    table_factory,
)
from palettery.kernels.scalar.palette_fitter import GroupFits, PaletteFitter
from palettery.kernels.scalar.scratch_buffers import ScratchBuffers
from palettery.kernels.sparsity import Mask, put_stored, take_stored
from palettery.kernels.threads import (
    CancellationCheck,
    available_threads,
    never_cancel,
    parallel_map,
)
from palettery.kernels.weight_reader import Lines, WeightReader

BATCH_ELEMENTS = 1 << 16
"""Most elements of one piece of work, unless a single group has more."""
MAX_SORTED_ELEMENTS = 1 << 19
"""Largest group that is sorted as a whole; larger ones are read in pieces, into tables."""
ROUND_ELEMENTS = 1 << 24
"""Elements of large groups that are read in one round of parallel pieces."""


_PieceTotals = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Sums, as in `ErrorTotals`, and occupancy of the groups of a piece."""


@dataclass(frozen=True)
class ScalarClusters:
    """Optimal scalar centroids of every group."""

    centroids: NDArray[np.float64]
    """Centroids (groups, K), ascending."""
    iterations: int
    """Most path searches for a group."""
    left_fast_mode: int
    """Number of groups clustered exactly although the settings ask for fast mode."""


class ErrorTotals:
    """Errors and occupancy per group, accumulated piece by piece in a fixed order."""

    def __init__(self, groups: int, k: int) -> None:
        self.sums = np.zeros((groups, 3))
        """Sum of squared errors, sum of squares, and largest error of each group."""
        self.occupancy = np.zeros((groups, k), np.int64)

    def add(self, groups: range, sums: NDArray[np.float64], occupancy: NDArray[np.int64]) -> None:
        """Add a piece of some groups. Shapes: (len(groups), 3), (len(groups), K)."""
        selected = slice(groups.start, groups.stop)
        self.sums[selected, :2] += sums[:, :2]
        self.sums[selected, 2] = np.maximum(self.sums[selected, 2], sums[:, 2])
        self.occupancy[selected] += occupancy

    def errors(self) -> Errors:
        """Return the errors of all groups together."""
        sse, signal, max_error = self.sums.T
        return Errors(float(sse.sum()), float(signal.sum()), float(max_error.max()))


def cluster(
    reader: WeightReader,
    k: int,
    decimals: int | None,
    threads: int | None,
    check_cancelled: CancellationCheck = never_cancel,
) -> ScalarClusters:
    """Return optimal palettes of every group; `decimals` turns fast mode on.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    return cluster_each(reader, (k,), decimals, threads, check_cancelled)[0]


def cluster_each(
    reader: WeightReader,
    ks: Sequence[int],
    decimals: int | None,
    threads: int | None,
    check_cancelled: CancellationCheck = never_cancel,
) -> list[ScalarClusters]:
    """Return what `cluster` returns, for each k; groups are read, sorted and rounded only once.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    layout, dtype = reader.layout, reader.weight.dtype
    if is_large(reader):
        return _cluster_large_groups(reader, ks, decimals, threads, check_cancelled)
    centroids = tuple(np.empty((layout.groups, k)) for k in ks)
    fitter = PaletteFitter(tuple(ks), decimals, dtype)

    def run(groups: range) -> list[GroupFits]:
        values, masses = _group_data(reader, groups)
        fits = []
        for row, group in enumerate(groups):
            points = group_points(values[row], masses[row], dtype, fitter.scratch)
            fits.append(fitter.fit(points, tuple(palettes[group] for palettes in centroids)))
        return fits

    batches = parallel_map(run, layout.batches(BATCH_ELEMENTS), threads, check_cancelled)
    return scalar_clusters(centroids, [fit for batch in batches for fit in batch], decimals)


def scalar_clusters(
    centroids: Sequence[NDArray[np.float64]], fits: Sequence[GroupFits], decimals: int | None
) -> list[ScalarClusters]:
    """Return the clusters of all groups for each k, from `PaletteFitter.fit` of each group."""
    clusters = []
    for palettes, group_fits in zip(centroids, zip(*fits, strict=True), strict=True):
        left_fast_mode = 0 if decimals is None else sum(not fast for _, fast in group_fits)
        clusters.append(
            ScalarClusters(palettes, max(paths for paths, _ in group_fits), left_fast_mode)
        )
    return clusters


def is_large(reader: WeightReader) -> bool:
    """Return whether groups are too large to be clustered at once."""
    return reader.layout.elements > MAX_SORTED_ELEMENTS and reader.weight.dtype != np.float64


def _group_data(
    reader: WeightReader, groups: range
) -> tuple[Sequence[NDArray[Any]], Sequence[NDArray[np.float64] | None]]:
    """Return the values, or codes, and the masses, if any, of each of some groups."""
    values = reader.codes(groups) if reader.by_code else reader.entries(groups)
    masses = reader.masses(groups)
    return list(values), [None] * len(groups) if masses is None else list(masses)


def _cluster_large_groups(
    reader: WeightReader,
    ks: Sequence[int],
    decimals: int | None,
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> list[ScalarClusters]:
    """Cluster large groups, a few at a time."""
    layout = reader.layout
    per_round = max(LANES // lanes_per_group(layout), threads or available_threads())
    clusters: dict[int, ScalarClusters] = {}
    for table_ks in ks_by_tables(ks, by_code=reader.by_code):
        make_table, _ = table_factory(
            layout, table_ks[-1], by_code=reader.by_code, weighted=reader.weighted
        )
        centroids = tuple(np.empty((layout.groups, k)) for k in table_ks)
        fitter = PaletteFitter(table_ks, decimals, reader.weight.dtype)
        fits: list[GroupFits] = []
        for first in range(0, layout.groups, per_round):
            groups = range(first, min(first + per_round, layout.groups))
            height = layout.rows_within(
                max(ROUND_ELEMENTS, LANES * large_groups.PIECE_ELEMENTS) // len(groups)
            )

            def blocks(height: int = height) -> Iterator[Block]:
                for row in range(0, layout.height, height):
                    yield Block(reader, slice(row, min(row + height, layout.height)), row)

            tables = {group: make_table() for group in groups}
            fits += cluster_large(
                blocks, layout, tables, fitter, centroids, threads, check_cancelled
            )
        clusters |= zip(table_ks, scalar_clusters(centroids, fits, decimals), strict=True)
    return [clusters[k] for k in ks]


def refine_groups(
    reader: WeightReader,
    centroids: NDArray[np.float64],
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> None:
    """Move centroids (groups, K) of a two-byte weight to good values of its dtype, in place."""
    layout, dtype, scratch = reader.layout, reader.weight.dtype, ScratchBuffers()

    def run(groups: range) -> None:
        values, masses = _group_data(reader, groups)
        for row, group in enumerate(groups):
            points = group_points(values[row], masses[row], dtype, scratch)
            if not points.is_empty:
                centroids[group] = refine_entries(*points.exact, centroids[group], dtype)

    parallel_map(run, layout.batches(BATCH_ELEMENTS), threads, check_cancelled)


def assign_nearest(
    reader: WeightReader,
    lut: NDArray[np.floating],
    totals: ErrorTotals,
    threads: int | None,
    check_cancelled: CancellationCheck = never_cancel,
) -> NDArray[np.uint8]:
    """Return the index of the entry nearest to every value, the upper one on ties; add to totals.

    Shapes: lut (groups, K), each group ascending -> like the weight, or (num_stored,) of a sparse
        weight, row-major.
    """
    layout, thresholds = reader.layout, cell_thresholds(lut)
    pieces = layout.pieces(BATCH_ELEMENTS, large_groups.PIECE_ELEMENTS)
    offsets = None if reader.mask is None else _piece_offsets(reader.mask, layout, pieces)
    indices = np.empty(layout.shape if offsets is None else offsets[-1], np.uint8)
    assign_group: Callable[..., tuple[float, float, float]] = _assign_values
    if reader.by_code:
        assign_group = _CodeAssigner(reader.weight.dtype).assign

    def assign_piece(piece_number: int) -> _PieceTotals:
        groups, rows = piece = pieces[piece_number]
        values = reader.codes(*piece) if reader.by_code else reader.values(*piece)
        piece_indices: Lines[np.uint8] = layout.take(indices, *piece) if offsets is None else []
        if offsets is not None:
            ends = accumulate(
                (group_values.size for group_values in values), initial=offsets[piece_number]
            )
            piece_indices = [indices[first:end] for first, end in pairwise(ends)]
        sums, occupancy = np.empty((len(groups), 3)), np.zeros((len(groups), lut.shape[1]), int)
        for row, group in enumerate(groups):
            lut_and_thresholds = lut[group], thresholds[group]
            sums[row] = assign_group(
                values[row], *lut_and_thresholds, piece_indices[row], occupancy[row]
            )
        if offsets is None:
            layout.put(indices, groups, np.asarray(piece_indices), rows)
        return sums, occupancy

    results = parallel_map(assign_piece, range(len(pieces)), threads, check_cancelled)
    for (groups, _), sums in zip(pieces, results, strict=True):
        totals.add(groups, *sums)
    if reader.mask is None or layout.axis == 0:
        return indices
    return _to_row_major(indices, reader.mask, layout, pieces)


def _piece_offsets(
    mask: Mask, layout: GroupLayout, pieces: Sequence[tuple[range, slice]]
) -> list[int]:
    """Return the number of stored values before each piece, and the total at the end."""
    counts = (int(np.count_nonzero(layout.cut(mask, *piece))) for piece in pieces)
    return list(accumulate(counts, initial=0))


def _to_row_major(
    indices: NDArray[np.uint8],
    mask: Mask,
    layout: GroupLayout,
    pieces: Sequence[tuple[range, slice]],
) -> NDArray[np.uint8]:
    """Reorder indices of stored values from piece by piece to row-major. Shapes: (num_stored,)."""
    dense, start = np.empty(layout.shape, np.uint8), 0
    for groups, rows in pieces:
        group_masks, piece_indices = (
            layout.take(mask, groups, rows),
            layout.take(dense, groups, rows),
        )
        for group_mask, group_indices in zip(group_masks, piece_indices, strict=True):
            end = start + int(np.count_nonzero(group_mask))
            put_stored(indices[start:end], group_mask, group_indices)
            start = end
        layout.put(dense, groups, piece_indices, rows)
    return take_stored(dense.reshape(-1), mask.reshape(-1))


def _assign_values(
    values: NDArray[np.floating],
    lut: NDArray[np.floating],
    thresholds: NDArray[np.floating],
    indices: NDArray[np.uint8],
    occupancy: NDArray[np.int64],
) -> tuple[float, float, float]:
    """Fill the cells, add to the occupancy, and return the sums of `ErrorTotals`."""
    assign(values, thresholds, indices)
    return measure_errors(values, indices, lut, occupancy)


@dataclass(frozen=True)
class _CodeAssigner:
    """Assignment of two-byte weights by their codes."""

    dtype: np.dtype[Any]
    scratch: ScratchBuffers = field(default_factory=ScratchBuffers)

    def assign(
        self,
        codes: NDArray[np.uint16],
        lut: NDArray[np.float32],
        thresholds: NDArray[np.float32],
        indices: NDArray[np.uint8],
        occupancy: NDArray[np.int64],
    ) -> tuple[float, float, float]:
        """Fill the cells, add to the occupancy, and return the sums of `ErrorTotals`."""
        values, counts = code_values(self.dtype), self.scratch.counts()
        starts = cell_starts(thresholds, values, infinity_code(self.dtype))
        assign_codes(codes, starts, indices, counts)
        return measure_counts(counts, starts, values, lut, occupancy)
