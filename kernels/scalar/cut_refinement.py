"""Refinement of cuts: from the best among a few candidates to the best among all positions."""

import numpy as np

from palettery.kernels.jit import compiled
from palettery.kernels.scalar.k_link_path import MAX_PATHS, Floats, Integers, cheapest_cells

COARSE_SPLIT = 32
FINE_SPLIT, FINE_SPLIT_OF_MANY = 256, 192
"""Parts into which each cell is split in the last search over all cells: k up to 64, and above.

With fewer parts the optimum is sometimes missed, compared to dynamic programming over all points;
see docs/kernels.md.
"""
WINDOW_POSITIONS = 32
"""Positions to try on either side of a cut."""
SHRINK_FACTOR = 8
"""Factor by which the spacing of positions shrinks from one scale to the next."""


@compiled
def split_cells(cuts: Integers, split: int) -> Integers:
    """Return the cuts, and between them positions that divide each cell into `split` parts."""
    k = cuts.size - 1
    positions, count = np.zeros(k * split + 1, np.int64), 1
    for j in range(k):
        cell_size, position, remainder = cuts[j + 1] - cuts[j], cuts[j], 0
        step, step_remainder = cell_size // split, cell_size % split
        for _ in range(split):  # place = cuts[j] + room * part // split, without dividing
            position, remainder = position + step, remainder + step_remainder
            if remainder >= split:
                position, remainder = position + 1, remainder - split
            if position > positions[count - 1]:
                positions[count] = position
                count += 1
    return positions[:count]


@compiled
def position_spacing(cuts: Integers, j: int, parts_per_cell: int) -> int:
    """Return the spacing in points of positions around cut j: the smaller cell / parts_per_cell."""
    smaller = min(cuts[j] - cuts[j - 1], cuts[j + 1] - cuts[j])
    return int(max(1, smaller // parts_per_cell))


@compiled
def positions_around(cuts: Integers, parts_per_cell: int) -> tuple[Integers, bool]:
    """Return the cuts and up to `WINDOW_POSITIONS` on either side, at most to the middle of a cell.

    Also returns whether the positions are adjacent points.
    """
    k = cuts.size - 1
    positions, count, finest = np.zeros(k * (2 * WINDOW_POSITIONS + 1) + 1, np.int64), 1, True
    for j in range(1, k):
        step = position_spacing(cuts, j, parts_per_cell)
        finest &= step == 1
        first = max(positions[count - 1] + 1, cuts[j] - (cuts[j] - cuts[j - 1]) // 2)
        last = cuts[j] + (cuts[j + 1] - cuts[j] - 1) // 2
        for offset in range(-WINDOW_POSITIONS, WINDOW_POSITIONS + 1):
            position = cuts[j] + offset * step
            if first <= position <= last:
                positions[count] = position
                count += 1
    positions[count] = cuts[k]
    return positions[: count + 1], finest


@compiled
def is_at_window_end(cuts: Integers, moved: Integers, parts_per_cell: int) -> bool:
    """Return whether a cut moved nearly to the end of its window, so that it might move further."""
    for j in range(1, cuts.size - 1):
        step = position_spacing(cuts, j, parts_per_cell)
        shift = moved[j] - cuts[j]
        limit = cuts[j] - cuts[j - 1] if shift < 0 else cuts[j + 1] - cuts[j]
        if shift != 0 and abs(shift) >= min(WINDOW_POSITIONS * step, limit // 2) - 2 * step:
            return True
    return False


@compiled
def refine_cuts(weights: Floats, moments: Floats, cuts: Integers, penalty: float) -> int:
    """Refine cuts that are optimal among a few candidates, by searches among more positions.

    First, every cell is divided into parts, and the best cuts between any parts are searched. So
    whole runs of cells can shift, as when one region has a cell too many and another one too few.
    This ends the search if it included every point. If not, windows of positions around the cuts
    are searched, ever more closely spaced, down to single points. If a cut reaches the end of its
    window, the search is repeated with windows around the new cuts.

    Returns the number of path searches.

    Shapes: prefix sums (n+1,), cuts (k+1,) changed in place.
    """
    k, n, paths = cuts.size - 1, cuts[-1], 0
    if k < 2:
        return 0
    parts_per_cell = FINE_SPLIT if k <= 64 else FINE_SPLIT_OF_MANY
    for split in (COARSE_SPLIT, parts_per_cell):
        positions = split_cells(cuts, parts_per_cell)
        if positions.size <= n:
            positions = split_cells(cuts, split)
        chosen, penalty, new_paths = cheapest_cells(
            weights[positions], moments[positions], k, penalty
        )
        cuts[:] = positions[chosen]
        paths += new_paths
        if positions.size == n + 1:
            return paths
    finest = False
    while not finest and paths < MAX_PATHS:
        parts_per_cell *= SHRINK_FACTOR
        again = True
        while again and paths < MAX_PATHS:
            positions, finest = positions_around(cuts, parts_per_cell)
            chosen, penalty, new_paths = cheapest_cells(
                weights[positions], moments[positions], k, penalty
            )
            paths += new_paths
            again = is_at_window_end(cuts, positions[chosen], parts_per_cell)
            cuts[:] = positions[chosen]
    return paths
