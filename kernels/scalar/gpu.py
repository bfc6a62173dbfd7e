"""Scalar palettes on any torch device: sort, cumulative sums, gather, and a batched small DP.

The algorithm of `scalar.cpu`, for many groups at once. The number of passes is fixed by
shapes, so nothing waits for the device: no Python loop runs over groups, and no value is read
back. Only the search for the first cuts differs: a full DP over the candidate cuts, where the CPU
path searches for the penalty that gives k cells.
"""

from math import ceil, log2

import torch
from torch import Tensor

from palettery.kernels.scalar.rounding import FINEST, LARGEST, MORE_DECIMALS, ROUNDED_PER_ENTRY
from palettery.kernels.threads import Check, unchecked

Moments = tuple[Tensor, Tensor, Tensor]
CANDIDATES = 1024
_MEASURE_ROUNDS = 24
_PASSES, _FINEST_PASSES = 2, 8


def cluster(values: Tensor, mass: Tensor | None, k: int, check: Check = unchecked) -> Tensor:
    """Optimal centroids of each group, ascending, in float64.

    With fewer than k distinct values the last centroid repeats. Values without mass are left out,
    unless all of a group have none. Peak memory is about 100 bytes a value and, a group,
    24 MB of candidates and 3 KB k^2 of windows, or 120 bytes n^2 of cells where n is at most
    `CANDIDATES`; call it with as many groups as fit.

    `check` is called between passes.

    Shapes: values (G, n) finite, mass (G, n) not negative or None -> (G, k).
    """
    values, mass, spare = _merged(*_ordered(values, mass))
    count = values.shape[1]
    distinct = values[:, torch.arange(k, device=values.device).clamp(max=count - 1)]
    if count <= k:
        return distinct
    middle = values[:, count // 2, None]
    scale = torch.exp2(-values.abs().amax(1, keepdim=True).log2().floor())
    scale = torch.where(scale.isfinite(), scale, 1)
    points = (values - middle) * scale
    check()
    if count <= CANDIDATES:
        cuts, means = _optimal_cuts(points, mass, k)
    else:
        sums = _prefix_sums(points, mass)
        cuts = _refined(sums, _first_cuts(points, sums, k), check)
        weight, moment = (part.gather(1, cuts).diff() for part in sums)
        means = torch.where(weight > 0, moment / weight, points.gather(1, cuts[:, :-1]))
    means = means / scale + middle
    start, last = values.gather(1, cuts[:, :-1]), values.gather(1, cuts[:, 1:] - 1)
    means = torch.where(start == last, start, means)
    return torch.where(count - spare <= k, distinct, means)


def rounded(values: Tensor, mass: Tensor | None, k: int, decimals: int) -> tuple[Tensor, Tensor]:
    """What fast mode clusters, and the groups (G,) for which that is good enough.

    Groups are rounded to as few decimals as leave them values to choose from, or not at all.

    Shapes: values (G, n), mass (G, n) or None -> (G, n), (G,).
    """
    chosen = values
    lossless = _distinct(values, mass) <= k
    fits = values.abs().amax(1) <= LARGEST
    settled = ~fits
    halves = values.half().float()
    for finer in range(decimals, decimals + MORE_DECIMALS + 1):
        scale = torch.tensor(10.0 ** min(finer, FINEST), dtype=torch.float32, device=values.device)
        trial = ((halves * scale).round() / scale).to(values.dtype)
        enough = ~settled & (_distinct(trial, mass) >= ROUNDED_PER_ENTRY * k)
        chosen = torch.where(enough[:, None], trial, chosen)
        settled, lossless = settled | enough, lossless | enough
    return chosen, lossless


def _distinct(values: Tensor, mass: Tensor | None) -> Tensor:
    """Different values of each group that have mass. Shapes: (G, n) -> (G,)."""
    ordered, _ = _ordered(values, mass)
    return (ordered[:, 1:] != ordered[:, :-1]).sum(1) + 1


def assign(values: Tensor, lut: Tensor) -> Tensor:
    """Index of the nearest entry of an ascending palette, the upper one on ties.

    Shapes: values (G, n), lut (G, k) in the dtype of the values -> uint8 (G, n).
    """
    low, high = lut[:, :-1].double(), lut[:, 1:].double()
    middle = low + (high - low) / 2
    near = middle.to(values.dtype)
    above = torch.nextafter(near, torch.full_like(near, torch.inf))
    thresholds = torch.where(near.double() < middle, above, near)
    return torch.searchsorted(thresholds, values.contiguous(), right=True).to(torch.uint8)


def _ordered(values: Tensor, mass: Tensor | None) -> tuple[Tensor, Tensor]:
    """Ascending float64 values, and their masses; those without mass copy the largest with mass."""
    wide = values.double()
    if mass is None:
        return wide.sort(dim=1).values, torch.ones_like(wide)
    mass = mass.double()
    mass = torch.where(mass.amax(1, keepdim=True) > 0, mass, 1)
    largest = wide.masked_fill(mass == 0, -torch.inf).amax(1, keepdim=True)
    ordered, order = torch.where(mass > 0, wide, largest).sort(dim=1, stable=True)
    return ordered, (mass / mass.amax(1, keepdim=True)).gather(1, order)


def _merged(values: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Equal values as one; at the end the last repeats without mass, so many times as said.

    Shapes: ascending values (G, n), mass (G, n) -> the same, and spare places (G, 1).
    """
    rank = _from_zero((values[:, 1:] != values[:, :-1]).cumsum(1))
    every = torch.arange(rank.shape[1], device=rank.device).repeat(len(rank), 1)
    ends = torch.searchsorted(rank, every, right=True)
    total = _from_zero(_from_zero(mass.cumsum(1)).gather(1, ends)).diff()
    return values.gather(1, ends - 1), total, rank.shape[1] - 1 - rank[:, -1:]


def _prefix_sums(points: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of w and w x over the points before each position. Shapes: (G, n) -> (G, n + 1)."""
    return _from_zero(mass.cumsum(1)), _from_zero((mass * points).cumsum(1))


def _from_zero(rows: Tensor) -> Tensor:
    return torch.nn.functional.pad(rows, (1, 0))


def _first_cuts(points: Tensor, sums: tuple[Tensor, Tensor], k: int) -> Tensor:
    """The best cuts among candidates that lie evenly in the companding measure.

    Shapes: points (G, n) -> (G, k + 1), 0 and n included.
    """
    wanted = min(points.shape[1], CANDIDATES)
    measure = _measure(points, sums[0], wanted).cumsum(1)
    marks = torch.arange(1, wanted, device=points.device) / wanted
    inner = torch.searchsorted(measure, marks * measure[:, -1:]).add_(1)
    inner = _spread_apart(inner, points.shape[1])
    candidates = torch.nn.functional.pad(inner, (1, 1))
    candidates[:, -1] = points.shape[1]
    gains = _gains(sums, candidates.repeat(1, 2), wanted + 1).squeeze(1)
    return candidates.gather(1, _cheapest_cuts(gains, k))


def _cheapest_cuts(costs: Tensor, k: int) -> Tensor:
    """Cuts into the k cells of least cost; costs (G, n, n) of cells from place to place."""
    cost, choices = costs[:, 0], []
    for _ in range(k - 1):
        cost, choice = (cost[:, :, None] + costs).min(1)
        choices.append(choice)
    at = torch.full_like(cost[:, :1], costs.shape[1] - 1, dtype=torch.int64)
    chosen = [at]
    for choice in reversed(choices):
        at = choice.gather(1, at)
        chosen.append(at)
    return torch.cat([torch.zeros_like(at), *chosen[::-1]], 1)


def _optimal_cuts(points: Tensor, mass: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best cuts of few points, and the means of their cells.

    The cost of every cell is put together from those of runs of 1, 2, 4, ... points, which loses
    no digits where prefix sums do.

    Shapes: points, mass (G, n) -> (G, k + 1), (G, k).
    Source: Chan, Golub and LeVeque 1979.
    """
    groups, count = points.shape
    place = torch.arange(count + 1, device=points.device)
    length = (place - place[:, None]).clamp(min=0)
    start = place[:, None].expand_as(length)
    pad = torch.nn.functional.pad
    run = (pad(mass, (0, 1)), pad(points, (0, 1)), torch.zeros_like(pad(points, (0, 1))))
    nothing = torch.zeros_like(length, dtype=points.dtype).repeat(groups, 1, 1)
    cell = (nothing, nothing, nothing)
    for bit in range(count.bit_length()):
        size = 1 << bit
        part = (length & size) > 0
        mass, mean, cost = (torch.where(part, each[:, start], 0) for each in run)
        cell = _joined(cell, (mass, torch.where(part, mean, cell[1]), cost))
        start = start + torch.where(part, size, 0)
        beyond = (place + size).clamp(max=count)
        run = _joined(run, (run[0][:, beyond], run[1][:, beyond], run[2][:, beyond]))
    cuts = _cheapest_cuts(cell[2].masked_fill(length == 0, torch.inf), k)
    rows = cell[1].gather(1, cuts[:, :-1, None].expand(-1, -1, count + 1))
    return cuts, rows.gather(2, cuts[:, 1:, None]).squeeze(2)


def _joined(left: Moments, right: Moments) -> Moments:
    """Mass, mean and squared error of two cells that become one."""
    mass = left[0] + right[0]
    share = torch.where(mass > 0, right[0] / mass, 0)
    away = right[1] - left[1]
    mean = torch.where(left[0] > 0, left[1] + away * share, right[1])
    return mass, mean, left[2] + right[2] + left[0] * share * away.square()


def _spread_apart(positions: Tensor, count: int) -> Tensor:
    """Strictly ascending positions in 1..count-1, moved as little as that takes."""
    order = torch.arange(positions.shape[1], device=positions.device)
    apart = (positions - order).cummax(1).values + order
    room = count - positions.shape[1] + order
    return apart.minimum(room).maximum(order + 1)


def _measure(points: Tensor, weights: Tensor, wanted: int) -> Tensor:
    """Measure of every point: its share of integral density^(1/3), in equal parts per block.

    A block whose measure exceeds one candidate's share is halved, down to single points, which
    count one share at most: so neither outliers nor far modes starve the bulk.

    Shapes: points (G, n), weights prefix sums (G, n + 1) -> (G, n).
    Source: Panter and Dite 1951; Gersho 1979.
    """
    count = points.shape[1]
    last = ceil(log2(count))
    levels = range(min(last, ceil(log2(4 * wanted))), last + 1)
    edges = [torch.arange(2**level + 1, device=points.device) * count >> level for level in levels]
    blocks = [_block_measures(points, weights, edge) for edge in edges]
    share = torch.full_like(points[:, :1], torch.inf)
    for _ in range(_MEASURE_ROUNDS):
        spent = _halved(blocks, share)
        share = spent.sum(1, keepdim=True) / wanted
    spent = _halved(blocks, share)
    # The finest blocks hold one point or none; these are those with one.
    ends = torch.arange(1, count + 1, device=points.device)
    return spent[:, (ends * 2**last + count - 1) // count - 1]


def _block_measures(points: Tensor, weights: Tensor, edge: Tensor) -> Tensor:
    """cbrt(weight * length^2) of the blocks between edges; a single point also has the next one."""
    last = points.shape[1] - 1
    start, end = edge[:-1], edge[1:]
    length = points[:, end.clamp(max=last)] - points[:, start.clamp(max=last)]
    beyond = (end + (end - start == 1)).clamp(max=last + 1)
    weight = weights[:, beyond] - weights[:, start]
    measure = (weight * length * length).clamp(min=0) ** (1 / 3)
    return torch.where(end > start, measure, 0)


def _halved(blocks: list[Tensor], share: Tensor) -> Tensor:
    """Measures of the finest blocks, each an equal part of the largest within one share."""
    spent = torch.where(blocks[0] > share, torch.nan, blocks[0])
    for block in blocks[1:]:
        inherited = spent.repeat_interleave(2, dim=1) / 2
        own = torch.where(block > share, torch.nan, block)
        spent = torch.where(inherited.isnan(), own, inherited)
    return torch.where(spent.isnan(), share, spent)


def _refined(sums: tuple[Tensor, Tensor], cuts: Tensor, check: Check) -> Tensor:
    """Joint windowed passes at halving steps, down to single points."""
    count = sums[0].shape[1] - 1
    share = 8
    while share < count:
        room = cuts.diff()
        steps = torch.ones_like(cuts)
        steps[:, 1:-1] = (torch.minimum(room[:, 1:], room[:, :-1]) // share).clamp(min=1)
        share *= 2
        for _ in range(_PASSES if share < count else _FINEST_PASSES):
            check()
            cuts = _windowed_pass(sums, cuts, steps)
    return cuts


def _width(k: int) -> int:
    """Positions of each cut in a pass, about 8 sqrt(k).

    Cuts that move together cost little when k is large, so they follow the rounding of the last
    scale for about sqrt(k) of its steps.
    """
    width = 32
    while width * width < 64 * k:
        width *= 2
    return width


def _windowed_pass(sums: tuple[Tensor, Tensor], cuts: Tensor, steps: Tensor) -> Tensor:
    """Best joint choice of all cuts on a grid around each.

    Shapes: prefix sums (G, n + 1), cuts and steps (G, k + 1) -> cuts.
    """
    groups, edges = cuts.shape
    k, count, width = edges - 1, sums[0].shape[1] - 1, _width(edges - 1)
    offsets = torch.arange(width, device=cuts.device) - width // 2
    places = cuts[:, :, None] + steps[:, :, None] * offsets
    order = torch.arange(edges, device=cuts.device)[:, None]
    places = places.maximum(order).minimum(count - k + order)
    places[:, 0], places[:, -1] = 0, count
    gains = _gains(sums, places.reshape(groups, -1), width)
    cost = torch.zeros_like(gains[:, 0, 0])
    choices = []
    for j in range(k):
        cost, choice = (cost[:, :, None] + gains[:, j]).min(1)
        choices.append(choice)
    at = torch.zeros_like(cuts[:, :1])
    chosen = [at]
    for choice in reversed(choices):
        at = choice.gather(1, at)
        chosen.append(at)
    return places.gather(2, torch.stack(chosen[::-1], 1)).squeeze(2)


def _gains(sums: tuple[Tensor, Tensor], places: Tensor, width: int) -> Tensor:
    """-S^2 / W of the cells between all places of neighbouring cuts; infinite where it is empty.

    Shapes: places (G, (k + 1) * width) -> (G, k, width before, width after).
    """
    shape = (len(places), -1, width)
    weight, moment = (part.gather(1, places).reshape(shape) for part in sums)
    place = places.reshape(shape)
    weight = weight[:, 1:, None, :] - weight[:, :-1, :, None]
    moment = moment[:, 1:, None, :] - moment[:, :-1, :, None]
    empty = place[:, 1:, None, :] <= place[:, :-1, :, None]
    gain = torch.where(weight > 0, -moment * moment / weight, 0)
    return gain.masked_fill_(empty, torch.inf)
