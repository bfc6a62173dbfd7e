"""Candidate cuts on a torch device: few positions, spread evenly in density^(1/3)."""

from math import ceil, log2

import torch
from torch import Tensor

_MEASURE_ROUNDS = 24


def spread_apart(positions: Tensor, count: int) -> Tensor:
    """Return strictly ascending positions in 1..count-1, close to the given ones."""
    order = torch.arange(positions.shape[1], device=positions.device)
    apart = (positions - order).cummax(1).values + order
    room = count - positions.shape[1] + order
    return apart.minimum(room).maximum(order + 1)


def companding_measure(points: Tensor, weights: Tensor, wanted: int) -> Tensor:
    """Return the measure of every point: its integral of density^(1/3), spread evenly per block.

    A block whose measure exceeds one candidate's share is halved, down to single points. A point
    counts at most one share, so outliers and distant modes leave candidates for the bulk.

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
        spent = _halve_blocks(blocks, share)
        share = spent.sum(1, keepdim=True) / wanted
    spent = _halve_blocks(blocks, share)
    # The finest blocks hold one point or none; these are those with one.
    ends = torch.arange(1, count + 1, device=points.device)
    return spent[:, (ends * 2**last + count - 1) // count - 1]


def _block_measures(points: Tensor, weights: Tensor, edge: Tensor) -> Tensor:
    """Return cbrt(weight * length^2) of the blocks; a single point includes the next one."""
    last = points.shape[1] - 1
    start, end = edge[:-1], edge[1:]
    length = points[:, end.clamp(max=last)] - points[:, start.clamp(max=last)]
    beyond = (end + (end - start == 1)).clamp(max=last + 1)
    weight = weights[:, beyond] - weights[:, start]
    measure = (weight * length * length).clamp(min=0) ** (1 / 3)
    return torch.where(end > start, measure, 0)


def _halve_blocks(blocks: list[Tensor], share: Tensor) -> Tensor:
    """Return the measures of the finest blocks: equal parts of the largest within one share."""
    spent = torch.where(blocks[0] > share, torch.nan, blocks[0])
    for block in blocks[1:]:
        inherited = spent.repeat_interleave(2, dim=1) / 2
        own = torch.where(block > share, torch.nan, block)
        spent = torch.where(inherited.isnan(), own, inherited)
    return torch.where(spent.isnan(), share, spent)
