"""Scalar palettes on any torch device: sort, cumulative sums, gather, dynamic programming.

The algorithm of `scalar.cpu`, for many groups at once. Shapes alone determine the number of passes,
so the host never waits for the device: no Python loop runs over groups, and no value is read back.
Only the first cuts differ: they come from dynamic programming over all candidate cuts, where the
CPU searches for the penalty that gives k cells.
"""

import torch
from torch import Tensor

from palettery.kernels.scalar.rounding import (
    LARGEST_FLOAT16,
    MAX_DECIMALS,
    MAX_EXTRA_DECIMALS,
    MIN_VALUES_PER_ENTRY,
)
from palettery.kernels.scalar.torch_candidates import companding_measure, make_distinct
from palettery.kernels.threads import CancellationCheck, never_cancel

Moments = tuple[Tensor, Tensor, Tensor]
CANDIDATES = 1024
_PASSES, _FINAL_PASSES = 2, 8


def cluster(
    values: Tensor, mass: Tensor | None, k: int, check_cancelled: CancellationCheck = never_cancel
) -> Tensor:
    """Return optimal centroids of each group, ascending, in float64.

    With fewer than k distinct values the last centroid repeats. Values without mass are ignored,
    unless a whole group has none. Peak memory is about 100 bytes per value and, per group, 24 MB of
    candidates and 3 KB k^2 of windows, or 120 bytes n^2 of cells if n is at most `CANDIDATES`.

    `check_cancelled` is called between passes.

    Shapes: values (G, n) finite, mass (G, n) not negative or None -> (G, k).
    """
    values, mass, num_unused = _merge_equal(*_sort(values, mass))
    count = values.shape[1]
    distinct = values[:, torch.arange(k, device=values.device).clamp(max=count - 1)]
    if count <= k:
        return distinct
    middle = values[:, count // 2, None]
    scale = torch.exp2(-values.abs().amax(1, keepdim=True).log2().floor())
    scale = torch.where(scale.isfinite(), scale, 1)
    points = (values - middle) * scale
    check_cancelled()
    if count <= CANDIDATES:
        cuts, means = _optimal_cuts(points, mass, k)
    else:
        sums = _prefix_sums(points, mass)
        cuts = _refine_cuts(sums, _best_candidate_cuts(points, sums, k), check_cancelled)
        weight, moment = (part.gather(1, cuts).diff() for part in sums)
        means = torch.where(weight > 0, moment / weight, points.gather(1, cuts[:, :-1]))
    means = means / scale + middle
    start, last = values.gather(1, cuts[:, :-1]), values.gather(1, cuts[:, 1:] - 1)
    means = torch.where(start == last, start, means)
    return torch.where(count - num_unused <= k, distinct, means)


def round_values(
    values: Tensor, mass: Tensor | None, k: int, decimals: int
) -> tuple[Tensor, Tensor]:
    """Return the rounded values of fast mode, and whether those of each group are accurate enough.

    Each group is rounded to the fewest decimals that leave enough distinct values, or not at all.

    Shapes: values (G, n), mass (G, n) or None -> (G, n), (G,).
    """
    chosen = values
    is_accurate = _count_distinct(values, mass) <= k
    is_in_range = values.abs().amax(1) <= LARGEST_FLOAT16
    done = ~is_in_range
    float16_values = values.half().float()
    for tried_decimals in range(decimals, decimals + MAX_EXTRA_DECIMALS + 1):
        scale = torch.tensor(
            10.0 ** min(tried_decimals, MAX_DECIMALS), dtype=torch.float32, device=values.device
        )
        rounded = ((float16_values * scale).round() / scale).to(values.dtype)
        enough = ~done & (_count_distinct(rounded, mass) >= MIN_VALUES_PER_ENTRY * k)
        chosen = torch.where(enough[:, None], rounded, chosen)
        done, is_accurate = done | enough, is_accurate | enough
    return chosen, is_accurate


def _count_distinct(values: Tensor, mass: Tensor | None) -> Tensor:
    """Return the number of distinct values with mass in each group. Shapes: (G, n) -> (G,)."""
    ordered, _ = _sort(values, mass)
    return (ordered[:, 1:] != ordered[:, :-1]).sum(1) + 1


def assign(values: Tensor, lut: Tensor) -> Tensor:
    """Return the index of the nearest entry of an ascending palette, the upper one on ties.

    Shapes: values (G, n), lut (G, k) in the dtype of the values -> uint8 (G, n).
    """
    low, high = lut[:, :-1].double(), lut[:, 1:].double()
    middle = low + (high - low) / 2
    rounded = middle.to(values.dtype)
    next_above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    thresholds = torch.where(rounded.double() < middle, next_above, rounded)
    return torch.searchsorted(thresholds, values.contiguous(), right=True).to(torch.uint8)


def _sort(values: Tensor, mass: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ascending float64 values and masses.

    Values without mass are replaced with the largest value that has mass.
    """
    exact = values.double()
    if mass is None:
        return exact.sort(dim=1).values, torch.ones_like(exact)
    mass = mass.double()
    mass = torch.where(mass.amax(1, keepdim=True) > 0, mass, 1)
    largest = exact.masked_fill(mass == 0, -torch.inf).amax(1, keepdim=True)
    ordered, order = torch.where(mass > 0, exact, largest).sort(dim=1, stable=True)
    return ordered, (mass / mass.amax(1, keepdim=True)).gather(1, order)


def _merge_equal(values: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Merge equal values; unused columns at the end repeat the last value without mass.

    Shapes: ascending values (G, n), mass (G, n) -> the same, and number of unused columns (G, 1).
    """
    rank = _prepend_zero((values[:, 1:] != values[:, :-1]).cumsum(1))
    ranks = torch.arange(rank.shape[1], device=rank.device).repeat(len(rank), 1)
    ends = torch.searchsorted(rank, ranks, right=True)
    masses = _prepend_zero(_prepend_zero(mass.cumsum(1)).gather(1, ends)).diff()
    return values.gather(1, ends - 1), masses, rank.shape[1] - 1 - rank[:, -1:]


def _prefix_sums(points: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums of w and w x before each position. Shapes: (G, n) -> (G, n + 1)."""
    return _prepend_zero(mass.cumsum(1)), _prepend_zero((mass * points).cumsum(1))


def _prepend_zero(rows: Tensor) -> Tensor:
    return torch.nn.functional.pad(rows, (1, 0))


def _best_candidate_cuts(points: Tensor, sums: tuple[Tensor, Tensor], k: int) -> Tensor:
    """Return the best cuts among candidates that are spread evenly in the companding measure.

    Shapes: points (G, n) -> (G, k + 1), 0 and n included.
    """
    num_candidates = min(points.shape[1], CANDIDATES)
    measure = companding_measure(points, sums[0], num_candidates).cumsum(1)
    fractions = torch.arange(1, num_candidates, device=points.device) / num_candidates
    positions = torch.searchsorted(measure, fractions * measure[:, -1:]).add_(1)
    positions = make_distinct(positions, points.shape[1])
    candidates = torch.nn.functional.pad(positions, (1, 1))
    candidates[:, -1] = points.shape[1]
    gains = _gains(sums, candidates.repeat(1, 2), num_candidates + 1).squeeze(1)
    return candidates.gather(1, _cheapest_cuts(gains, k))


def _cheapest_cuts(costs: Tensor, k: int) -> Tensor:
    """Return the cuts into the k cells of least total cost. Shapes: costs of cells (G, n, n)."""
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
    positions = torch.arange(count + 1, device=points.device)
    length = (positions - positions[:, None]).clamp(min=0)
    start = positions[:, None].expand_as(length)
    pad = torch.nn.functional.pad
    run = (pad(mass, (0, 1)), pad(points, (0, 1)), torch.zeros_like(pad(points, (0, 1))))
    zeros = torch.zeros_like(length, dtype=points.dtype).repeat(groups, 1, 1)
    cell = (zeros, zeros, zeros)
    for bit in range(count.bit_length()):
        size = 1 << bit
        has_bit = (length & size) > 0
        mass, mean, cost = (torch.where(has_bit, statistic[:, start], 0) for statistic in run)
        cell = _join_cells(cell, (mass, torch.where(has_bit, mean, cell[1]), cost))
        start = start + torch.where(has_bit, size, 0)
        next_start = (positions + size).clamp(max=count)
        run = _join_cells(
            run, (run[0][:, next_start], run[1][:, next_start], run[2][:, next_start])
        )
    cuts = _cheapest_cuts(cell[2].masked_fill(length == 0, torch.inf), k)
    rows = cell[1].gather(1, cuts[:, :-1, None].expand(-1, -1, count + 1))
    return cuts, rows.gather(2, cuts[:, 1:, None]).squeeze(2)


def _join_cells(left: Moments, right: Moments) -> Moments:
    """Return mass, mean and squared error of the union of two cells."""
    mass = left[0] + right[0]
    share = torch.where(mass > 0, right[0] / mass, 0)
    difference = right[1] - left[1]
    mean = torch.where(left[0] > 0, left[1] + difference * share, right[1])
    return mass, mean, left[2] + right[2] + left[0] * share * difference.square()


def _refine_cuts(
    sums: tuple[Tensor, Tensor], cuts: Tensor, check_cancelled: CancellationCheck
) -> Tensor:
    """Improve all cuts jointly within windows of positions, whose spacing is halved repeatedly."""
    count = sums[0].shape[1] - 1
    parts_per_cell = 8
    while parts_per_cell < count:
        cell_sizes = cuts.diff()
        steps = torch.ones_like(cuts)
        steps[:, 1:-1] = (
            torch.minimum(cell_sizes[:, 1:], cell_sizes[:, :-1]) // parts_per_cell
        ).clamp(min=1)
        parts_per_cell *= 2
        for _ in range(_PASSES if parts_per_cell < count else _FINAL_PASSES):
            check_cancelled()
            cuts = _windowed_pass(sums, cuts, steps)
    return cuts


def _window_width(k: int) -> int:
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
    k, count, width = edges - 1, sums[0].shape[1] - 1, _window_width(edges - 1)
    offsets = torch.arange(width, device=cuts.device) - width // 2
    positions = cuts[:, :, None] + steps[:, :, None] * offsets
    ranks = torch.arange(edges, device=cuts.device)[:, None]
    positions = positions.maximum(ranks).minimum(count - k + ranks)
    positions[:, 0], positions[:, -1] = 0, count
    gains = _gains(sums, positions.reshape(groups, -1), width)
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
    return positions.gather(2, torch.stack(chosen[::-1], 1)).squeeze(2)


def _gains(sums: tuple[Tensor, Tensor], positions: Tensor, width: int) -> Tensor:
    """Return -S^2 / W of the cells between all positions of consecutive cuts; infinite if empty.

    Shapes: positions (G, (k + 1) * width) -> (G, k, width before, width after).
    """
    shape = (len(positions), -1, width)
    weight, moment = (part.gather(1, positions).reshape(shape) for part in sums)
    grid = positions.reshape(shape)
    weight = weight[:, 1:, None, :] - weight[:, :-1, :, None]
    moment = moment[:, 1:, None, :] - moment[:, :-1, :, None]
    empty = grid[:, 1:, None, :] <= grid[:, :-1, :, None]
    gain = torch.where(weight > 0, -moment * moment / weight, 0)
    return gain.masked_fill_(empty, torch.inf)
