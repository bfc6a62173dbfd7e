"""Scalar palettes on the CPU: optimal centroids of every group, and assignment of the values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.float16 import code_values, infinity_code
from palettery.kernels.metrics import Errors
from palettery.kernels.scalar import large_groups
from palettery.kernels.scalar.assign import assign, cell_thresholds, measure_errors
from palettery.kernels.scalar.counting import assign_codes, cell_starts, measure_counts
from palettery.kernels.scalar.large_groups import (
    LANES,
    Block,
    cluster_large,
    lanes_per_group,
    table_factory,
)
from palettery.kernels.scalar.palette_fitter import PaletteFitter
from palettery.kernels.scalar.scratch_buffers import ScratchBuffers
from palettery.kernels.threads import Check, available_threads, no_check, parallel_map
from palettery.kernels.weight_reader import WeightReader

BATCH = 1 << 16
"""Elements of one piece of work, if groups are small enough."""
LARGEST_SORTED = 1 << 19
"""Largest group that is clustered at once; larger groups are read in pieces."""
BLOCK = 1 << 24
"""Elements of large groups in one round of pieces."""


@dataclass(frozen=True)
class ScalarClusters:
    """Optimal scalar centroids of every group."""

    centroids: NDArray[np.float64]
    """Centroids (groups, K), ascending."""
    iterations: int
    """Largest number of paths searched for a group."""
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
        at = slice(groups.start, groups.stop)
        self.sums[at, :2] += sums[:, :2]
        self.sums[at, 2] = np.maximum(self.sums[at, 2], sums[:, 2])
        self.occupancy[at] += occupancy

    def errors(self) -> Errors:
        """Return the errors of all groups together."""
        sse, signal, most = self.sums.T
        return Errors(float(sse.sum()), float(signal.sum()), float(most.max()))


def cluster(
    reader: WeightReader, k: int, decimals: int | None, threads: int | None, check: Check = no_check
) -> ScalarClusters:
    """Return optimal palettes of every group; `decimals` turns fast mode on.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    layout = reader.layout
    centroids = np.empty((layout.groups, k))
    fitter = PaletteFitter(k, decimals, reader.weight.dtype)

    def run(groups: range) -> list[tuple[int, bool]]:
        values, masses = _group_data(reader, groups)
        return [
            fitter.fit(values[row], masses[row], centroids[group])
            for row, group in enumerate(groups)
        ]

    if is_large(reader):
        fits = _cluster_large_groups(reader, fitter, centroids, threads, check)
    else:
        batches = parallel_map(run, layout.batches(BATCH), threads, check)
        fits = [fit for batch in batches for fit in batch]
    return scalar_clusters(centroids, fits, decimals)


def scalar_clusters(
    centroids: NDArray[np.float64], fits: Sequence[tuple[int, bool]], decimals: int | None
) -> ScalarClusters:
    """Return the clusters of all groups, from the results of `PaletteFitter.fit` for each."""
    left_fast_mode = 0 if decimals is None else sum(not fast for _, fast in fits)
    return ScalarClusters(centroids, max(paths for paths, _ in fits), left_fast_mode)


def is_large(reader: WeightReader) -> bool:
    """Return whether groups are too large to be clustered at once."""
    return reader.layout.elements > LARGEST_SORTED and reader.weight.dtype != np.float64


def _group_data(
    reader: WeightReader, groups: range
) -> tuple[NDArray[Any], Sequence[NDArray[np.float64] | None]]:
    """Return values or codes of some groups, for a `PaletteFitter`, and masses or None of each."""
    values = reader.codes(groups) if reader.counted else reader.entries(groups)
    masses = reader.masses(groups)
    return values, [None] * len(groups) if masses is None else list(masses)


def _cluster_large_groups(
    reader: WeightReader,
    fitter: PaletteFitter,
    centroids: NDArray[np.float64],
    threads: int | None,
    check: Check,
) -> list[tuple[int, bool]]:
    """Cluster large groups, a few at a time."""
    layout = reader.layout
    make, _ = table_factory(layout, fitter.k, counted=reader.counted, weighted=reader.weighted)
    per_round = max(LANES // lanes_per_group(layout), threads or available_threads())
    fits = []
    for first in range(0, layout.groups, per_round):
        groups = range(first, min(first + per_round, layout.groups))
        height = layout.rows_within(max(BLOCK, LANES * large_groups.PIECE) // len(groups))

        def blocks(height: int = height) -> Iterator[Block]:
            for at in range(0, layout.height, height):
                yield Block(reader, slice(at, min(at + height, layout.height)), at)

        tables = {group: make() for group in groups}
        fits += cluster_large(blocks, layout, tables, fitter, centroids, threads, check)
    return fits


def refine_groups(
    reader: WeightReader, centroids: NDArray[np.float64], threads: int | None, check: Check
) -> None:
    """Move centroids (groups, K) of a two-byte weight to the best values of its dtype, in place."""
    layout = reader.layout
    fitter = PaletteFitter(centroids.shape[1], None, reader.weight.dtype)

    def run(groups: range) -> None:
        values, masses = _group_data(reader, groups)
        for row, group in enumerate(groups):
            fitter.refine(values[row], masses[row], centroids[group])

    parallel_map(run, layout.batches(BATCH), threads, check)


def assign_nearest(
    reader: WeightReader,
    lut: NDArray[np.floating],
    totals: ErrorTotals,
    threads: int | None,
    check: Check = no_check,
) -> NDArray[np.uint8]:
    """Return the index of the entry nearest to every value, the upper one on ties; add to totals.

    Shapes: lut (groups, K), each group ascending -> like the weight.
    """
    layout, thresholds = reader.layout, cell_thresholds(lut)
    indices = np.empty(layout.shape, np.uint8)
    pieces = layout.pieces(BATCH, large_groups.PIECE)
    code_assigner = _CodeAssigner(reader.weight.dtype)

    def run(piece: tuple[range, slice]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        groups, rows = piece
        values = reader.codes(*piece) if reader.counted else reader.values(*piece)
        assign_group = code_assigner.assign if reader.counted else _assign_values
        cells = layout.take(indices, groups, rows)
        sums, occupancy = np.empty((len(groups), 3)), np.zeros((len(groups), lut.shape[1]), int)
        for row, group in enumerate(groups):
            entries = lut[group], thresholds[group]
            sums[row] = assign_group(values[row], *entries, cells[row], occupancy[row])
        layout.put(indices, groups, cells, rows)
        return sums, occupancy

    for (groups, _), sums in zip(pieces, parallel_map(run, pieces, threads, check), strict=True):
        totals.add(groups, *sums)
    return indices


def _assign_values(
    values: NDArray[np.floating],
    lut: NDArray[np.floating],
    thresholds: NDArray[np.floating],
    cells: NDArray[np.uint8],
    occupancy: NDArray[np.int64],
) -> tuple[float, float, float]:
    """Fill the cells, add to the occupancy, and return the sums of `ErrorTotals`."""
    assign(values, thresholds, cells)
    return measure_errors(values, cells, lut, occupancy)


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
        cells: NDArray[np.uint8],
        occupancy: NDArray[np.int64],
    ) -> tuple[float, float, float]:
        """Fill the cells, add to the occupancy, and return the sums of `ErrorTotals`."""
        values, counts = code_values(self.dtype), self.scratch.counts()
        starts = cell_starts(thresholds, values, infinity_code(self.dtype))
        assign_codes(codes, starts, cells, counts)
        return measure_counts(counts, starts, values, lut, occupancy)
