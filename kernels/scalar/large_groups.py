"""Palettes of large groups: the rows are read block by block into tables of bounded size.

Two-byte weights are counted by code in one pass over the rows. Others are binned in two or three
passes, or counted in one if they have few distinct values.
The tables of a group are filled in parallel lanes, each with its own copy; the copies are added up
at the end. Pieces of a fixed number of rows go to the lanes in turn, so sums depend neither on the
number of threads nor on the size of the blocks.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.groups import GroupLayout
from palettery.kernels.scalar.binning import Bins, num_fine_bins
from palettery.kernels.scalar.counting import CodeCounts
from palettery.kernels.scalar.group_points import DistinctPoints
from palettery.kernels.scalar.palette_fitter import GroupFits, PaletteFitter
from palettery.kernels.threads import CancellationCheck, parallel_map
from palettery.kernels.weight_reader import WeightReader

LANES = 4
"""Number of lanes, i.e. of copies of a group's tables, if there is only one group."""
PIECE_ELEMENTS = 1 << 18
"""Elements of a group that are read at once."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of every group."""

    reader: WeightReader
    """Reader of these rows, and maybe of others."""
    rows: slice
    """Rows of the block, within the reader's groups."""
    first: int
    """Position of the first row within the groups of the whole tensor."""


Blocks = Callable[[], Iterable[Block]]
"""Function that yields all blocks; it is called once for each pass over the rows."""
Tables = CodeCounts | Bins


def lanes_per_group(layout: GroupLayout) -> int:
    """Return the number of lanes of each group."""
    return max(1, LANES // layout.groups)


def table_factory(
    layout: GroupLayout, k: int, *, by_code: bool, weighted: bool
) -> tuple[Callable[[], Tables], int]:
    """Return a function that makes the tables of a group, and their approximate size in bytes.

    `by_code` and `weighted` are those of the `WeightReader`.
    """
    lanes = lanes_per_group(layout)
    if by_code:
        return partial(CodeCounts, lanes, weighted), CodeCounts.size_bytes(lanes, weighted)
    return partial(Bins, k, lanes, weighted), Bins.size_bytes(k, lanes, weighted)


def ks_by_tables(ks: Iterable[int], *, by_code: bool) -> list[tuple[int, ...]]:
    """Return the numbers of entries, ascending, grouped by the table size that they need."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for k in sorted(set(ks)):
        by_size[0 if by_code else num_fine_bins(k)].append(k)
    return [tuple(size_ks) for size_ks in by_size.values()]


def cluster_large(
    blocks: Blocks,
    layout: GroupLayout,
    tables: Mapping[int, Tables],
    fitter: PaletteFitter,
    centroids: tuple[NDArray[np.float64], ...],
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> list[GroupFits]:
    """Fill the centroids of the groups that have tables; return what `PaletteFitter.fit` returns.

    Shapes: centroids (groups of the layout, k) for palettes k of the fitter.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    lanes, piece_rows = lanes_per_group(layout), layout.rows_within(PIECE_ELEMENTS)

    def fill_lane(lane_work: tuple[int, int, Block, list[slice]]) -> None:
        group, lane, block, pieces = lane_work
        for rows in pieces:
            tables[group].add(lane, block.reader, group, rows)

    while unfilled := [group for group, table in tables.items() if not table.complete]:
        for block in blocks():
            pieces = _pieces_by_lane(block, piece_rows, lanes)
            lane_works = [
                (group, lane, block, lane_pieces)
                for group in unfilled
                for lane, lane_pieces in enumerate(pieces)
            ]
            parallel_map(fill_lane, lane_works, threads, check_cancelled)
        for group in unfilled:
            tables[group].end_pass()

    def fit(group: int) -> GroupFits:
        values, masses, codes = tables[group].points(fitter.dtype, fitter.scratch)
        points = DistinctPoints(values, masses, codes, fitter.dtype)
        return fitter.fit(points, tuple(palettes[group] for palettes in centroids))

    return parallel_map(fit, tables, threads, check_cancelled)


def _pieces_by_lane(block: Block, piece_rows: int, lanes: int) -> list[list[slice]]:
    """Return the rows of a block for each lane, cut at multiples of `piece_rows`."""
    pieces: list[list[slice]] = [[] for _ in range(lanes)]
    first, offset = block.rows.start, block.first - block.rows.start
    while first < block.rows.stop:
        piece_number = (first + offset) // piece_rows
        stop = min((piece_number + 1) * piece_rows - offset, block.rows.stop)
        pieces[piece_number % lanes].append(slice(first, stop))
        first = stop
    return pieces
