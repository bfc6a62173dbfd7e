"""Palettes of large groups: the rows are read block by block into tables of bounded size.

Two-byte weights are counted by code in one pass over the rows. Others are binned in two or three
passes, or counted in one if they have few distinct values.
Each lane has its own tables. Runs of a fixed number of rows go to the lanes in turn, so neither the
number of threads nor the size of the blocks changes a sum.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.groups import GroupLayout
from palettery.kernels.scalar.binning import Bins
from palettery.kernels.scalar.counting import CodeCounts
from palettery.kernels.scalar.palette_fitter import PaletteFitter
from palettery.kernels.threads import Check, parallel_map
from palettery.kernels.weight_reader import WeightReader

LANES = 4
"""Tables of a group that are filled in parallel, if it is the only group."""
PIECE = 1 << 18
"""Elements of a group that are read at once."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of every group."""

    reader: WeightReader
    """Reader of these rows, and maybe of others."""
    rows: slice
    """Position of the rows in the reader's groups."""
    first: int
    """Position of the first row in the groups of the whole tensor."""


Blocks = Callable[[], Iterable[Block]]
"""Function whose every call yields all blocks, for one pass over the rows."""
Tables = CodeCounts | Bins


def lanes_per_group(layout: GroupLayout) -> int:
    """Return the number of tables of each group that are filled in parallel."""
    return max(1, LANES // layout.groups)


def table_factory(
    layout: GroupLayout, k: int, *, counted: bool, weighted: bool
) -> tuple[Callable[[], Tables], int]:
    """Return a function that makes the tables of a group, and their approximate size in bytes.

    `counted` and `weighted` are those of the `WeightReader`.
    """
    lanes = lanes_per_group(layout)
    if counted:
        return partial(CodeCounts, lanes, weighted), CodeCounts.size_bytes(lanes, weighted)
    return partial(Bins, k, lanes, weighted), Bins.size_bytes(k, lanes, weighted)


def cluster_large(
    blocks: Blocks,
    layout: GroupLayout,
    tables: Mapping[int, Tables],
    fitter: PaletteFitter,
    centroids: NDArray[np.float64],
    threads: int | None,
    check: Check,
) -> list[tuple[int, bool]]:
    """Fill the centroids of the groups that have tables; return the result of `fit` for each.

    Shapes: centroids (groups of the layout, K).

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    lanes, step = lanes_per_group(layout), layout.rows_within(PIECE)

    def fill(item: tuple[int, int, Block, list[slice]]) -> None:
        group, lane, block, pieces = item
        for rows in pieces:
            tables[group].add(lane, block.reader, group, rows)

    while unfilled := [group for group, table in tables.items() if not table.complete]:
        for block in blocks():
            pieces = _pieces(block, step, lanes)
            work = [(g, lane, block, own) for g in unfilled for lane, own in enumerate(pieces)]
            parallel_map(fill, work, threads, check)
        for group in unfilled:
            tables[group].end_pass()

    def fit(group: int) -> tuple[int, bool]:
        points, masses, codes = tables[group].points(fitter.dtype, fitter.scratch)
        return fitter.fit_points(points, masses, codes, centroids[group])

    return parallel_map(fit, tables, threads, check)


def _pieces(block: Block, step: int, lanes: int) -> list[list[slice]]:
    """Return the rows of a block for each lane, cut at multiples of `step` rows of the tensor."""
    pieces: list[list[slice]] = [[] for _ in range(lanes)]
    at, offset = block.rows.start, block.first - block.rows.start
    while at < block.rows.stop:
        run = (at + offset) // step
        stop = min((run + 1) * step - offset, block.rows.stop)
        pieces[run % lanes].append(slice(at, stop))
        at = stop
    return pieces
