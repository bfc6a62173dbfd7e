"""Scalar palettes on any torch device: sort, cumulative sums, gather, small dynamic programs.

The algorithm of `scalar.cpu`, for many groups at once. Shapes alone determine the number of passes,
so the host never waits for the device: no Python loop runs over groups, and no value is read back.
Only the first cuts differ: they come from dynamic programming over all candidate cuts, where the
CPU searches for the penalty that gives k cells.
"""

import torch
from torch import Tensor

from palettery.kernels.scalar.rounding import (
    FINEST,
    LARGEST_FLOAT16,
    MORE_DECIMALS,
    ROUNDED_PER_ENTRY,
)
from palettery.kernels.scalar.torch_candidates import companding_measure, spread_apart
from palettery.kernels.threads import Check, no_check

Moments = tuple[Tensor, Tensor, Tensor]
CANDIDATES = 1024
_PASSES, _FINEST_PASSES = 2, 8


def cluster(values: Tensor, mass: Tensor | None, k: int, check: Check = no_check) -> Tensor:
    """Return optimal centroids of each group, ascending, in float64.

    With fewer than k distinct values the last centroid repeats. Values without mass are ignored,
    unless a whole group has none. Peak memory is about 100 bytes per value and, per group, 24 MB of
    candidates and 3 KB k^2 of windows, or 120 bytes n^2 of cells if n is at most `CANDIDATES`.

    `check` is called between passes.

    Shapes: values (G, n) finite, mass (G, n) not negative or None -> (G, k).
    """
    values, mass, spare = _merge_equal(*_sort(values, mass))
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
        cuts = _refine_cuts(sums, _first_cuts(points, sums, k), check)
        weight, moment = (part.gather(1, cuts).diff() for part in sums)
        means = torch.where(weight > 0, moment / weight, points.gather(1, cuts[:, :-1]))
    means = means / scale + middle
    start, last = values.gather(1, cuts[:, :-1]), values.gather(1, cuts[:, 1:] - 1)
    means = torch.where(start == last, start, means)
    return torch.where(count - spare <= k, distinct, means)


def round_values(
    values: Tensor, mass: Tensor | None, k: int, decimals: int
) -> tuple[Tensor, Tensor]:
    """Return the rounded values of fast mode, and for which groups they are accurate enough.

    Each group is rounded to the fewest decimals that leave enough distinct values, or not at all.

    Shapes: values (G, n), mass (G, n) or None -> (G, n), (G,).
    """
    chosen = values
    lossless = _distinct(values, mass) <= k
    fits = values.abs().amax(1) <= LARGEST_FLOAT16
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
    """Return the number of distinct values with mass in each group. Shapes: (G, n) -> (G,)."""
    ordered, _ = _sort(values, mass)
    return (ordered[:, 1:] != ordered[:, :-1]).sum(1) + 1


def assign(values: Tensor, lut: Tensor) -> Tensor:
    """Return the index of the nearest entry of an ascending palette, the upper one on ties.

    Shapes: values (G, n), lut (G, k) in the dtype of the values -> uint8 (G, n).
    """
    low, high = lut[:, :-1].double(), lut[:, 1:].double()
    middle = low + (high - low) / 2
    near = middle.to(values.dtype)
    above = torch.nextafter(near, torch.full_like(near, torch.inf))
    thresholds = torch.where(near.double() < middle, above, near)
    return torch.searchsorted(thresholds, values.contiguous(), right=True).to(torch.uint8)


def _sort(values: Tensor, mass: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ascending float64 values and masses; values without mass become the largest with."""
    wide = values.double()
    if mass is None:
        return wide.sort(dim=1).values, torch.ones_like(wide)
    mass = mass.double()
    mass = torch.where(mass.amax(1, keepdim=True) > 0, mass, 1)
    largest = wide.masked_fill(mass == 0, -torch.inf).amax(1, keepdim=True)
    ordered, order = torch.where(mass > 0, wide, largest).sort(dim=1, stable=True)
    return ordered, (mass / mass.amax(1, keepdim=True)).gather(1, order)


def _merge_equal(values: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Merge equal values; the last value repeats without mass in the unused columns.

    Shapes: ascending values (G, n), mass (G, n) -> the same, and number of unused columns (G, 1).
    """
    rank = _pad_zero((values[:, 1:] != values[:, :-1]).cumsum(1))
    every = torch.arange(rank.shape[1], device=rank.device).repeat(len(rank), 1)
    ends = torch.searchsorted(rank, every, right=True)
    total = _pad_zero(_pad_zero(mass.cumsum(1)).gather(1, ends)).diff()
    return values.gather(1, ends - 1), total, rank.shape[1] - 1 - rank[:, -1:]


def _prefix_sums(points: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums of w and w x before each position. Shapes: (G, n) -> (G, n + 1)."""
    return _pad_zero(mass.cumsum(1)), _pad_zero((mass * points).cumsum(1))


def _pad_zero(rows: Tensor) -> Tensor:
    return torch.nn.functional.pad(rows, (1, 0))


def _first_cuts(points: Tensor, sums: tuple[Tensor, Tensor], k: int) -> Tensor:
    """Return the best cuts among candidates that are spread evenly in the companding measure.

    Shapes: points (G, n) -> (G, k + 1), 0 and n included.
    """
    wanted = min(points.shape[1], CANDIDATES)
    measure = companding_measure(points, sums[0], wanted).cumsum(1)
    marks = torch.arange(1, wanted, device=points.device) / wanted
    inner = torch.searchsorted(measure, marks * measure[:, -1:]).add_(1)
    inner = spread_apart(inner, points.shape[1])
    candidates = torch.nn.functional.pad(inner, (1, 1))
    candidates[:, -1] = points.shape[1]
    gains = _gains(sums, candidates.repeat(1, 2), wanted + 1).squeeze(1)
    return candidates.gather(1, _cheapest_cuts(gains, k))


def _cheapest_cuts(costs: Tensor, k: int) -> Tensor:
    """Return cuts into the k cells of least cost; costs (G, n, n) of cells between two places."""
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
    """Return the best cuts of few points, and the means of their cells.

    The cost of every cell is combined from those of runs of 1, 2, 4, ... points, without the
    cancellation of prefix sums.

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
        cell = _join_cells(cell, (mass, torch.where(part, mean, cell[1]), cost))
        start = start + torch.where(part, size, 0)
        beyond = (place + size).clamp(max=count)
        run = _join_cells(run, (run[0][:, beyond], run[1][:, beyond], run[2][:, beyond]))
    cuts = _cheapest_cuts(cell[2].masked_fill(length == 0, torch.inf), k)
    rows = cell[1].gather(1, cuts[:, :-1, None].expand(-1, -1, count + 1))
    return cuts, rows.gather(2, cuts[:, 1:, None]).squeeze(2)


def _join_cells(left: Moments, right: Moments) -> Moments:
    """Return mass, mean and squared error of the union of two cells."""
    mass = left[0] + right[0]
    share = torch.where(mass > 0, right[0] / mass, 0)
    away = right[1] - left[1]
    mean = torch.where(left[0] > 0, left[1] + away * share, right[1])
    return mass, mean, left[2] + right[2] + left[0] * share * away.square()


def _refine_cuts(sums: tuple[Tensor, Tensor], cuts: Tensor, check: Check) -> Tensor:
    """Improve all cuts jointly within windows, with steps halved down to single points."""
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
    """Return the number of positions of each cut in a pass, about 8 sqrt(k).

    If k is large, cuts can move together at little cost, by about sqrt(k) steps of the last scale.
    """
    width = 32
    while width * width < 64 * k:
        width *= 2
    return width


def _windowed_pass(sums: tuple[Tensor, Tensor], cuts: Tensor, steps: Tensor) -> Tensor:
    """Return the best joint choice of all cuts on a grid around each.

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
    """Return -S^2 / W of the cells between all places of neighbouring cuts; infinite if empty.

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
