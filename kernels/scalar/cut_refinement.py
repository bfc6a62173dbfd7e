"""Refinement of cuts that are best among a few candidates to cuts that are best on all points."""

import numpy as np

from palettery.kernels.jit import compiled
from palettery.kernels.scalar.k_link_path import MAX_PATHS, Floats, Integers, cheapest_cells

COARSE_SPLIT = 32
FINE_SPLIT, FINE_SPLIT_OF_MANY = 256, 192
"""Parts of each cell in the search over all parts: for k up to 64, and for larger k.

With fewer parts the optimum is sometimes missed, compared to dynamic programming over all points;
see docs/kernels.md.
"""
REACH = 32
"""Places to try on either side of a cut."""
CLOSER = 8
"""Factor by which the spacing of places shrinks from one scale to the next."""


@compiled
def parts_of_cells(cuts: Integers, split: int) -> Integers:
    """Return the cuts, and between them places that divide each cell into `split` parts."""
    k = cuts.size - 1
    places, count = np.zeros(k * split + 1, np.int64), 1
    for j in range(k):
        room, place, left = cuts[j + 1] - cuts[j], cuts[j], 0
        whole, rest = room // split, room % split
        for _ in range(split):  # place = cuts[j] + room * part // split, without dividing
            place, left = place + whole, left + rest
            if left >= split:
                place, left = place + 1, left - split
            if place > places[count - 1]:
                places[count] = place
                count += 1
    return places[:count]


@compiled
def place_spacing(cuts: Integers, j: int, share: int) -> int:
    """Return the spacing of places around cut j, in points: its smaller cell / share."""
    smaller = min(cuts[j] - cuts[j - 1], cuts[j + 1] - cuts[j])
    return int(max(1, smaller // share))


@compiled
def places_around(cuts: Integers, share: int) -> tuple[Integers, bool]:
    """Return the cuts with `REACH` places on either side of each, up to the middle of its cells.

    Also returns whether the places are adjacent points.
    """
    k = cuts.size - 1
    places, count, finest = np.zeros(k * (2 * REACH + 1) + 1, np.int64), 1, True
    for j in range(1, k):
        step = place_spacing(cuts, j, share)
        finest &= step == 1
        first = max(places[count - 1] + 1, cuts[j] - (cuts[j] - cuts[j - 1]) // 2)
        last = cuts[j] + (cuts[j + 1] - cuts[j] - 1) // 2
        for b in range(-REACH, REACH + 1):
            place = cuts[j] + b * step
            if first <= place <= last:
                places[count] = place
                count += 1
    places[count] = cuts[k]
    return places[: count + 1], finest


@compiled
def is_at_end(cuts: Integers, moved: Integers, share: int) -> bool:
    """Return whether a cut moved to about its last place, so that it might move further."""
    for j in range(1, cuts.size - 1):
        step = place_spacing(cuts, j, share)
        away = moved[j] - cuts[j]
        room = cuts[j] - cuts[j - 1] if away < 0 else cuts[j + 1] - cuts[j]
        if away != 0 and abs(away) >= min(REACH * step, room // 2) - 2 * step:
            return True
    return False


@compiled
def refine_cuts(weights: Floats, moments: Floats, cuts: Integers, penalty: float) -> int:
    """Move cuts that are best on a few candidates to the best on all points.

    First, every cell is divided into parts, and the best path through all parts is searched. So
    whole runs of cells can shift, as when one region has a cell too many and another one too few.
    Then places closer and closer to the cuts are tried, down to single points. Cuts that reach the
    end of their places get new ones.

    Returns the number of paths searched.

    Shapes: prefix sums (n+1,), cuts (k+1,) changed in place.
    """
    k, n, paths = cuts.size - 1, cuts[-1], 0
    if k < 2:
        return 0
    share = FINE_SPLIT if k <= 64 else FINE_SPLIT_OF_MANY
    for split in (COARSE_SPLIT, share):
        places = parts_of_cells(cuts, split)
        at, penalty, more = cheapest_cells(weights[places], moments[places], k, penalty)
        cuts[:] = places[at]
        paths += more
        if places.size == n + 1:
            return paths
    finest = False
    while not finest and paths < MAX_PATHS:
        share *= CLOSER
        again = True
        while again and paths < MAX_PATHS:
            places, finest = places_around(cuts, share)
            at, penalty, more = cheapest_cells(weights[places], moments[places], k, penalty)
            paths += more
            again = is_at_end(cuts, places[at], share)
            cuts[:] = places[at]
    return paths
