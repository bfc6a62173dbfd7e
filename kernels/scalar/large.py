"""Palettes of large groups: the rows are read block by block into tables of bounded size.

Two-byte weights are counted by their bits in one pass over the rows, others are binned in two, or
counted in one where they have few distinct values.
Sums are taken in lanes: row runs of fixed length go to the lanes in turn, so neither the number of
threads nor the size of the blocks changes a sum.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.groups import Layout
from palettery.kernels.scalar.binning import Bins
from palettery.kernels.scalar.counting import CodeCounts
from palettery.kernels.scalar.fitter import Fitter
from palettery.kernels.source import Source
from palettery.kernels.threads import Check, spread

LANES = 4
"""Tables of a group filled side by side, where it is the only one."""
PIECE = 1 << 18
"""Elements of a group that are read at a time."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of every group."""

    source: Source
    """Holds these rows and maybe others."""
    rows: slice
    """Where they lie in the source's groups."""
    first: int
    """Row of the tensor's groups that is their first."""


Blocks = Callable[[], Iterable[Block]]
"""Each call is one pass over all rows."""
Tables = CodeCounts | Bins


def lanes_of(layout: Layout) -> int:
    """Tables of each group that are filled side by side."""
    return max(1, LANES // layout.groups)


def tables_for(
    layout: Layout, k: int, *, counted: bool, weighted: bool
) -> tuple[Callable[[], Tables], int]:
    """What makes the tables of a group, and about how many bytes they take.

    `counted` and `weighted` are those of the `Source`.
    """
    lanes = lanes_of(layout)
    if counted:
        return partial(CodeCounts, lanes, weighted), CodeCounts.size_bytes(lanes, weighted)
    return partial(Bins, k, lanes, weighted), Bins.size_bytes(k, lanes, weighted)


def cluster_large(
    blocks: Blocks,
    layout: Layout,
    tables: Mapping[int, Tables],
    fitter: Fitter,
    centroids: NDArray[np.float64],
    threads: int | None,
    check: Check,
) -> list[tuple[int, bool]]:
    """Fill the centroids of the groups that there are tables for; for each what `fit` returns.

    Shapes: centroids (groups of the layout, K).

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    lanes, step = lanes_of(layout), layout.rows_within(PIECE)

    def fill(item: tuple[int, int, Block, list[slice]]) -> None:
        group, lane, block, pieces = item
        for rows in pieces:
            tables[group].add(lane, block.source, group, rows)

    while unfilled := [group for group, table in tables.items() if not table.complete]:
        for block in blocks():
            pieces = _pieces(block, step, lanes)
            work = [(g, lane, block, own) for g in unfilled for lane, own in enumerate(pieces)]
            spread(fill, work, threads, check)
        for group in unfilled:
            tables[group].end_pass()

    def fit(group: int) -> tuple[int, bool]:
        points, masses, codes = tables[group].points(fitter.dtype, fitter.scratch)
        return fitter.fit_points(points, masses, codes, centroids[group])

    return spread(fit, tables, threads, check)


def _pieces(block: Block, step: int, lanes: int) -> list[list[slice]]:
    """Rows of a block by their lane: cut where runs of `step` rows of the tensor end."""
    found: list[list[slice]] = [[] for _ in range(lanes)]
    at, offset = block.rows.start, block.first - block.rows.start
    while at < block.rows.stop:
        run = (at + offset) // step
        stop = min((run + 1) * step - offset, block.rows.stop)
        found[run % lanes].append(slice(at, stop))
        at = stop
    return found
