"""Scalar palettes on the CPU: optimal centroids of every group, and nearest entries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.float16 import infinity, values_of_codes
from palettery.kernels.metrics import Errors
from palettery.kernels.scalar import large
from palettery.kernels.scalar.assign import assign, measure, thresholds_of
from palettery.kernels.scalar.counting import first_places, look_up_cells, measure_counts
from palettery.kernels.scalar.fitter import Fitter
from palettery.kernels.scalar.large import LANES, Block, cluster_large, lanes_of, tables_for
from palettery.kernels.scalar.scratch import Scratch
from palettery.kernels.source import Source
from palettery.kernels.threads import Check, available_threads, spread, unchecked

BATCH = 1 << 16
"""Elements that one piece of work takes at least, group size permitting."""
LARGEST_SORTED = 1 << 19
"""Elements of a group up to which it is clustered whole; more are read in pieces."""
BLOCK = 1 << 24
"""Elements of large groups that are read between two rounds of pieces."""


@dataclass(frozen=True)
class Fit:
    """Optimal centroids (groups, K), ascending, and how they came about."""

    centroids: NDArray[np.float64]
    iterations: int
    left_fast_mode: int
    """Groups clustered exactly although fast mode was asked for."""


class Totals:
    """Errors and occupancy per group, summed piece by piece in the order of the pieces."""

    def __init__(self, groups: int, k: int) -> None:
        self.sums = np.zeros((groups, 3))
        """Squared errors, squares, and the largest error."""
        self.occupancy = np.zeros((groups, k), np.int64)

    def add(self, groups: range, sums: NDArray[np.float64], occupancy: NDArray[np.int64]) -> None:
        """Take in a piece of some groups. Shapes: (len(groups), 3), (len(groups), K)."""
        at = slice(groups.start, groups.stop)
        self.sums[at, :2] += sums[:, :2]
        self.sums[at, 2] = np.maximum(self.sums[at, 2], sums[:, 2])
        self.occupancy[at] += occupancy

    def errors(self) -> Errors:
        """Of all groups."""
        sse, signal, most = self.sums.T
        return Errors(float(sse.sum()), float(signal.sum()), float(most.max()))


def cluster(
    source: Source, k: int, decimals: int | None, threads: int | None, check: Check = unchecked
) -> Fit:
    """Optimal palettes of every group; `decimals` asks for fast mode.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    layout = source.layout
    centroids = np.empty((layout.groups, k))
    fitter = Fitter(k, decimals, source.weight.dtype)

    def run(groups: range) -> list[tuple[int, bool]]:
        values, masses = _clustered(source, groups)
        return [
            fitter.fit(values[row], masses[row], centroids[group])
            for row, group in enumerate(groups)
        ]

    if is_large(source):
        done = _cluster_pieces(source, fitter, centroids, threads, check)
    else:
        done = [fit for some in spread(run, layout.batches(BATCH), threads, check) for fit in some]
    return fit_of(centroids, done, decimals)


def fit_of(
    centroids: NDArray[np.float64], done: Sequence[tuple[int, bool]], decimals: int | None
) -> Fit:
    """All groups together, from what `Fitter.fit` returned for each."""
    left = 0 if decimals is None else sum(not fast for _, fast in done)
    return Fit(centroids, max(paths for paths, _ in done), left)


def is_large(source: Source) -> bool:
    """Whether groups are read in pieces."""
    return source.layout.elements > LARGEST_SORTED and source.weight.dtype != np.float64


def _clustered(
    source: Source, groups: range
) -> tuple[NDArray[Any], Sequence[NDArray[np.float64] | None]]:
    """What a `Fitter` fits, and the masses or none of each group."""
    values = source.codes(groups) if source.counted else source.entries(groups)
    masses = source.masses(groups)
    return values, [None] * len(groups) if masses is None else list(masses)


def _cluster_pieces(
    source: Source,
    fitter: Fitter,
    centroids: NDArray[np.float64],
    threads: int | None,
    check: Check,
) -> list[tuple[int, bool]]:
    """Large groups, few at a time."""
    layout = source.layout
    make, _ = tables_for(layout, fitter.k, counted=source.counted, weighted=source.weighted)
    together = max(LANES // lanes_of(layout), threads or available_threads())
    done = []
    for first in range(0, layout.groups, together):
        groups = range(first, min(first + together, layout.groups))
        height = layout.rows_within(max(BLOCK, LANES * large.PIECE) // len(groups))

        def blocks(height: int = height) -> Iterator[Block]:
            for at in range(0, layout.height, height):
                yield Block(source, slice(at, min(at + height, layout.height)), at)

        tables = {group: make() for group in groups}
        done += cluster_large(blocks, layout, tables, fitter, centroids, threads, check)
    return done


def settle_groups(
    source: Source, centroids: NDArray[np.float64], threads: int | None, check: Check
) -> None:
    """Move the centroids (groups, K) of a two-byte weight to the best that its dtype can hold."""
    layout = source.layout
    fitter = Fitter(centroids.shape[1], None, source.weight.dtype)

    def run(groups: range) -> None:
        values, masses = _clustered(source, groups)
        for row, group in enumerate(groups):
            fitter.settle(values[row], masses[row], centroids[group])

    spread(run, layout.batches(BATCH), threads, check)


def nearest(
    source: Source,
    lut: NDArray[np.floating],
    totals: Totals,
    threads: int | None,
    check: Check = unchecked,
) -> NDArray[np.uint8]:
    """Index of the entry nearest to every value, the upper one on ties; adds to the totals.

    Shapes: lut (groups, K), each group ascending -> like the weight.
    """
    layout, thresholds = source.layout, thresholds_of(lut)
    indices = np.empty(layout.shape, np.uint8)
    pieces = layout.pieces(BATCH, large.PIECE)
    by_code = _ByCode(source.weight.dtype)

    def run(piece: tuple[range, slice]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        groups, rows = piece
        values = source.codes(*piece) if source.counted else source.values(*piece)
        place = by_code.place if source.counted else _place
        cells = layout.take(indices, groups, rows)
        sums, occupancy = np.empty((len(groups), 3)), np.zeros((len(groups), lut.shape[1]), int)
        for row, group in enumerate(groups):
            entries = lut[group], thresholds[group]
            sums[row] = place(values[row], *entries, cells[row], occupancy[row])
        layout.put(indices, groups, cells, rows)
        return sums, occupancy

    for (groups, _), found in zip(pieces, spread(run, pieces, threads, check), strict=True):
        totals.add(groups, *found)
    return indices


def _place(
    values: NDArray[np.floating],
    lut: NDArray[np.floating],
    thresholds: NDArray[np.floating],
    cells: NDArray[np.uint8],
    occupancy: NDArray[np.int64],
) -> tuple[float, float, float]:
    """Fill the cells, add to the occupancy, and return the sums of `Totals`."""
    assign(values, thresholds, cells)
    return measure(values, cells, lut, occupancy)


@dataclass(frozen=True)
class _ByCode:
    """The same for two-byte weights by their bits."""

    dtype: np.dtype[Any]
    scratch: Scratch = field(default_factory=Scratch)

    def place(
        self,
        codes: NDArray[np.uint16],
        lut: NDArray[np.float32],
        thresholds: NDArray[np.float32],
        cells: NDArray[np.uint8],
        occupancy: NDArray[np.int64],
    ) -> tuple[float, float, float]:
        values, counts = values_of_codes(self.dtype), self.scratch.counts()
        starts = first_places(thresholds, values, infinity(self.dtype))
        look_up_cells(codes, starts, cells, counts)
        return measure_counts(counts, starts, values, lut, occupancy)
