"""The optimal cuts of sorted weighted points into k cells, from prefix sums.

A cell over points [a, b) costs sum w x^2 - S^2 / W with W and S its sums of w and w x. The first
term adds up to a constant over all cells, so the cuts minimise the sum of `gain` = -S^2 / W, and
with prefix sums one cell costs O(1). See docs/kernels.md.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.jit import compiled, compiled_inline

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_PASSES = 100
MAX_SHIFTS = 10
COARSE_SPLIT, FINE_SPLIT = 32, 128


@compiled_inline
def gain(weight: float, moment: float) -> float:
    """What a cell of this weight and first moment adds to the objective."""
    return -moment * moment / weight


@compiled
def cheapest_path(
    weights: Floats, moments: Floats, penalty: float, parents: Integers, links: Integers
) -> None:
    """Cheapest chain of cells over points 0..n when each cell costs `penalty` more.

    Fills, for every position, the start of the last cell and the number of cells before it.
    Costs obey the quadrangle inequality, so a later start, once better, stays better: a queue
    holds the starts that will be best for some position, in order (Galil and Park 1992).

    Shapes: weights, moments: prefix sums (n+1,); parents, links (n+1,).
    """
    n = weights.size - 1
    cost = np.empty(n + 1)
    queue = np.empty(n + 1, np.int64)
    since = np.empty(n + 1, np.int64)  # first position for which each start in the queue is best
    head = tail = 0
    queue[0], since[0], cost[0], links[0], parents[0] = 0, 1, 0.0, 0, 0
    for j in range(1, n + 1):
        while head < tail and since[head + 1] <= j:
            head += 1
        i = queue[head]
        cost[j] = cost[i] + penalty + gain(weights[j] - weights[i], moments[j] - moments[i])
        parents[j] = i
        links[j] = links[i] + 1
        while True:
            last = queue[tail]
            low = max(since[tail], j + 1)
            if low > n:
                break
            if _beats(weights, moments, cost, j, last, low):
                if tail > head:
                    tail -= 1
                    continue
                queue[tail], since[tail] = j, low
                break
            first = _first_win(weights, moments, cost, j, last, low)
            if first <= n:
                tail += 1
                queue[tail], since[tail] = j, first
            break


@compiled_inline
def _beats(weights: Floats, moments: Floats, cost: Floats, new: int, old: int, end: int) -> bool:
    """Whether a last cell from `new` is cheaper than one from `old`, both up to `end`."""
    fresh = cost[new] + gain(weights[end] - weights[new], moments[end] - moments[new])
    return bool(fresh < cost[old] + gain(weights[end] - weights[old], moments[end] - moments[old]))


@compiled
def _first_win(weights: Floats, moments: Floats, cost: Floats, new: int, old: int, low: int) -> int:
    """First end for which `new` beats `old`, known not to at `low`; past the last if none."""
    n = weights.size - 1
    step = 1
    while low + step <= n and not _beats(weights, moments, cost, new, old, low + step):
        low += step
        step *= 2
    high = min(low + step, n + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if _beats(weights, moments, cost, new, old, middle):
            high = middle
        else:
            low = middle
    return high


@compiled
def path_cuts(parents: Integers, links: Integers) -> Integers:
    """Cut positions of the path to the last point, both ends included."""
    position = parents.size - 1
    cuts = np.empty(links[position] + 1, np.int64)
    for j in range(links[position], -1, -1):
        cuts[j] = position
        position = parents[position]
    return cuts


@compiled
def coarse_cuts(weights: Floats, moments: Floats, k: int, penalty: float) -> Integers:
    """Best k cells by searching for the penalty at which the cheapest path has k of them.

    The optimal cost is convex in k, so the number of cells falls as the penalty grows; where it
    jumps over k, a path with too few and one with too many share a splice that has k.

    Shapes: prefix sums (n+1,) with n >= k -> (k+1,).
    """
    n = weights.size - 1
    parents, links = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    few, many = np.array([0, n]), np.arange(n + 1)
    low, high = 0.0, np.inf
    for _ in range(60):
        cheapest_path(weights, moments, penalty, parents, links)
        cells = links[n]
        if cells == k:
            return path_cuts(parents, links)
        if cells > k:
            low, many = penalty, path_cuts(parents, links)
        else:
            high, few = penalty, path_cuts(parents, links)
        ratio = cells / k
        # In the companding limit the number of cells goes with penalty^(-1/3).
        penalty *= min(max(ratio * ratio * ratio, 0.05), 20.0)
        if not low < penalty < high:
            penalty = np.sqrt(low) * np.sqrt(high) if low > 0 else high * 1e-3
        if high <= low * (1 + 1e-12) or penalty <= 1e-300 or penalty >= 1e300:
            break
    return spliced(weights, moments, few, many, k)


@compiled
def spliced(weights: Floats, moments: Floats, few: Integers, many: Integers, k: int) -> Integers:
    """Best k cells that follow `many`, then jump onto `few` inside one of its cells.

    Source: Aggarwal, Schieber and Tokuyama 1994, lemma 2.
    """
    surplus = k - (few.size - 1)
    best, at = np.inf, 0
    for j in range(few.size - 1):
        if j + surplus >= many.size - 1 or many[j + surplus] >= few[j + 1]:
            continue
        total = 0.0
        for i in range(j + surplus):
            a, b = many[i], many[i + 1]
            total += gain(weights[b] - weights[a], moments[b] - moments[a])
        a, b = many[j + surplus], few[j + 1]
        total += gain(weights[b] - weights[a], moments[b] - moments[a])
        for i in range(j + 1, few.size - 1):
            a, b = few[i], few[i + 1]
            total += gain(weights[b] - weights[a], moments[b] - moments[a])
        if total < best:
            best, at = total, j
    return np.concatenate((many[: at + surplus + 1], few[at + 1 :]))


@compiled
def best_before(
    before: Floats,
    before_w: Floats,
    before_s: Floats,
    here: Floats,
    here_w: Floats,
    here_s: Floats,
    choice: Integers,
) -> None:
    """Cheapest place of the previous cut for every place of this one.

    The choice rises with the place (Monge), so each is looked for between its neighbours': first
    every 2^m-th place, then those halfway between, and so on.

    Shapes: all (width,); here and choice are filled.
    """
    width = before.size
    stride = 1
    while stride < width:
        stride *= 2
    while stride:
        for b in range(stride - 1, width, 2 * stride):
            low = choice[b - stride] if b >= stride else 0
            high = choice[b + stride] if b + stride < width else width - 1
            best, at = np.inf, low
            for a in range(low, high + 1):
                weight = here_w[b] - before_w[a]
                if weight <= 0:
                    break
                total = before[a] + gain(weight, here_s[b] - before_s[a])
                if total < best:
                    best, at = total, a
            here[b], choice[b] = best, at
        stride //= 2


@compiled
def choose_jointly(
    weights: Floats,
    moments: Floats,
    cuts: Integers,
    places: Integers,
    first: int,
    last: int,
    toll: float,
) -> None:
    """Move the cuts between `first` and `last` at once to the best of their places.

    A cut that stays on its middle place costs `toll` more.

    Shapes: prefix sums (n+1,), cuts (k+1,) changed in place, places (k+1, width) ascending.
    """
    width = places.shape[1]
    choices = np.empty((last - first + 1, width), np.int64)
    before, before_w, before_s = np.full(width, np.inf), np.empty(width), np.empty(width)
    here, here_w, here_s = np.empty(width), np.empty(width), np.empty(width)
    before[0] = 0.0
    before_w[:], before_s[:] = weights[cuts[first]], moments[cuts[first]]
    for j in range(first + 1, last):
        for b in range(width):
            here_w[b], here_s[b] = weights[places[j, b]], moments[places[j, b]]
        best_before(before, before_w, before_s, here, here_w, here_s, choices[j - first])
        here[width // 2] += toll
        before, here = here, before
        before_w, here_w = here_w, before_w
        before_s, here_s = here_s, before_s
    here_w[:], here_s[:] = weights[cuts[last]], moments[cuts[last]]
    best_before(before, before_w, before_s, here, here_w, here_s, choices[last - first])
    b = 0
    for j in range(last - 1, first, -1):
        b = choices[j + 1 - first, b]
        cuts[j] = places[j, b]


@compiled
def cut_gain(weights: Floats, moments: Floats, cuts: Integers, first: int, last: int) -> float:
    """Sum of the gains of the cells between two cuts."""
    total = 0.0
    for j in range(first, last):
        a, b = cuts[j], cuts[j + 1]
        total += gain(weights[b] - weights[a], moments[b] - moments[a])
    return total


@compiled
def near_moved(cuts: Integers, previous: Integers, active: Flags) -> bool:
    """Mark the cuts that lie near one that moved; whether one did."""
    k, moved = cuts.size - 1, False
    margin = int(np.sqrt(k))
    active[:] = False
    for j in range(1, k):
        if cuts[j] != previous[j]:
            moved = True
            active[max(1, j - margin) : j + margin + 1] = True
    return moved


@compiled
def choose_where(
    weights: Floats, moments: Floats, cuts: Integers, places: Integers, active: Flags
) -> bool:
    """Move every run of active cuts and leave active what lies near a cut that moved.

    Returns whether one did.

    Shapes: cuts, active (k+1,), both changed in place.
    """
    k = cuts.size - 1
    previous = cuts.copy()
    j = 1
    while j < k:
        if not active[j]:
            j += 1
            continue
        first = j - 1
        while j < k and active[j]:
            j += 1
        before = cut_gain(weights, moments, cuts, first, j)
        choose_jointly(weights, moments, cuts, places, first, j, 0.0)
        if not cut_gain(weights, moments, cuts, first, j) < before:
            cuts[first:j] = previous[first:j]
    return near_moved(cuts, previous, active)


@compiled
def places_around(cuts: Integers, share: int, places: Integers) -> bool:
    """Places for each cut around where it is, steps of its smaller cell / share apart.

    Returns whether all steps are single points.

    Shapes: cuts (k+1,), places (k+1, width) filled.
    """
    k, width = cuts.size - 1, places.shape[1]
    n, finest = cuts[k], True
    for j in range(1, k + 1):
        room = cuts[j] - cuts[j - 1]
        if j < k:
            room = min(room, cuts[j + 1] - cuts[j])
        step = max(1, room // share)
        finest &= step == 1
        for b in range(width):
            place = cuts[j] + (b - width // 2) * step
            places[j, b] = min(max(place, j), n - (k - j))
    return finest


@compiled
def places_between(cuts: Integers, split: int, places: Integers) -> None:
    """Places for each cut that divide the cells around it into `split` parts each.

    They include the cuts next to it, so that a run of cells may shift by a whole cell: that is
    how a cell moves from where there is one too many to where there is one too few.

    Shapes: cuts (k+1,), places (k+1, width) filled.
    """
    k, width = cuts.size - 1, places.shape[1]
    n = cuts[k]
    for j in range(1, k + 1):
        for b in range(width):
            offset = b - width // 2
            cell, part = j + offset // split, offset % split
            if cell < 0:
                place = 0
            elif cell >= k:
                place = n
            else:
                place = cuts[cell] + (cuts[cell + 1] - cuts[cell]) * part // split
            places[j, b] = min(max(place, j), n - (k - j))


@compiled
def descend(weights: Floats, moments: Floats, cuts: Integers, region: Flags) -> int:
    """Joint passes at shrinking steps down to single points; returns their number.

    Each scale repeats, near the cuts that moved, until nothing does. Cuts that move together cost
    little when k is large, so they follow the rounding of the last scale for about sqrt(k) of its
    steps: hence the width of the windows.

    Shapes: prefix sums (n+1,), cuts (k+1,) changed in place, region (k+1,) of the cuts to move.
    """
    k, n = cuts.size - 1, cuts[-1]
    width = max(32, 8 * int(np.ceil(np.sqrt(k))))
    near, finest = np.empty((k + 1, width), np.int64), np.empty((k + 1, max(96, width)), np.int64)
    passes, share = 0, FINE_SPLIT // 2
    while share < n and passes < MAX_PASSES:
        share *= 4
        places = near
        if places_around(cuts, share, near):
            share, places = n, finest
        active, moved = region.copy(), True
        while moved and passes < MAX_PASSES:
            places_around(cuts, share, places)
            moved = choose_where(weights, moments, cuts, places, active)
            passes += 1
    return passes


@compiled
def refine(weights: Floats, moments: Floats, cuts: Integers, square: float) -> int:
    """Descend to single points, then shift runs of cells by a whole cell while that helps.

    On the grid of a shift, cuts that stay are exact and cuts that move are rounded. The toll is
    what rounding costs a cut on average, twice, so that a better shift is not missed for it.

    Returns the number of passes.

    Shapes: prefix sums (n+1,), cuts (k+1,) changed in place; square is the sum of w x^2.
    """
    k = cuts.size - 1
    if k < 2:
        return 0
    coarse = np.empty((k + 1, 3 * COARSE_SPLIT), np.int64)
    far = np.empty((k + 1, 2 * FINE_SPLIT + 16), np.int64)
    region = np.ones(k + 1, np.bool_)
    places_between(cuts, COARSE_SPLIT, coarse)
    choose_jointly(weights, moments, cuts, coarse, 0, k, 0.0)
    passes = 1 + descend(weights, moments, cuts, region)
    cost = cut_gain(weights, moments, cuts, 0, k)
    for _ in range(MAX_SHIFTS):
        shifted = cuts.copy()
        places_between(cuts, FINE_SPLIT, far)
        toll = 2.0 * max(0.0, square + cost) / k / FINE_SPLIT**2
        choose_jointly(weights, moments, shifted, far, 0, k, toll)
        passes += 1
        if not near_moved(shifted, cuts, region):
            break
        passes += descend(weights, moments, shifted, region)
        found = cut_gain(weights, moments, shifted, 0, k)
        if not found < cost:
            break
        cuts[:], cost = shifted, found
    return passes
