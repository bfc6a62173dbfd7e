"""Candidate cuts on a torch device: few positions, spread evenly in density^(1/3)."""

from math import ceil, log2

import torch
from torch import Tensor

_MEASURE_ROUNDS = 24


def make_distinct(positions: Tensor, num_points: int) -> Tensor:
    """Return strictly ascending positions from 1 to num_points - 1, close to `positions`."""
    ranks = torch.arange(positions.shape[1], device=positions.device)
    separated = (positions - ranks).cummax(1).values + ranks
    upper_bounds = num_points - positions.shape[1] + ranks
    return separated.minimum(upper_bounds).maximum(ranks + 1)


def companding_measure(points: Tensor, weights: Tensor, num_candidates: int) -> Tensor:
    """Return the measure of every point: its integral of density^(1/3), spread evenly per block.

    A block whose measure exceeds one candidate's share is halved, down to single points. A point
    counts at most one share, so outliers and distant modes leave candidates for the bulk.

    Shapes: points (G, n), weights prefix sums (G, n + 1) -> (G, n).
    Source: Panter and Dite 1951; Gersho 1979.
    """
    count = points.shape[1]
    last_level = ceil(log2(count))
    levels = range(min(last_level, ceil(log2(4 * num_candidates))), last_level + 1)
    edges = [torch.arange(2**level + 1, device=points.device) * count >> level for level in levels]
    blocks = [_block_measures(points, weights, edge) for edge in edges]
    share = torch.full_like(points[:, :1], torch.inf)
    for _ in range(_MEASURE_ROUNDS):
        measures = _split_blocks(blocks, share)
        share = measures.sum(1, keepdim=True) / num_candidates
    measures = _split_blocks(blocks, share)
    # The finest blocks hold one point or none; these are those with one.
    ends = torch.arange(1, count + 1, device=points.device)
    return measures[:, (ends * 2**last_level + count - 1) // count - 1]


def _block_measures(points: Tensor, weights: Tensor, edge: Tensor) -> Tensor:
    """Return cbrt(weight * length^2) of the blocks; a single point includes the next one."""
    last = points.shape[1] - 1
    start, end = edge[:-1], edge[1:]
    length = points[:, end.clamp(max=last)] - points[:, start.clamp(max=last)]
    weight_end = (end + (end - start == 1)).clamp(max=last + 1)
    weight = weights[:, weight_end] - weights[:, start]
    measure = (weight * length * length).clamp(min=0) ** (1 / 3)
    return torch.where(end > start, measure, 0)


def _split_blocks(blocks: list[Tensor], share: Tensor) -> Tensor:
    """Return the measures of the finest blocks.

    Each is an equal part of the measure of the largest enclosing block that has at most one share.
    """
    measures = torch.where(blocks[0] > share, torch.nan, blocks[0])
    for block in blocks[1:]:
        inherited = measures.repeat_interleave(2, dim=1) / 2
        block_measures = torch.where(block > share, torch.nan, block)
        measures = torch.where(inherited.isnan(), block_measures, inherited)
    return torch.where(measures.isnan(), share, measures)
