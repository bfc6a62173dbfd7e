"""Vector K-means on any torch device, batched over groups.

The algorithm of `vector.cpu` with a fixed number of passes, so that the host never waits for the
device: greedy k-means++ on a sample, over-relaxed Lloyd iterations, breathing, Lloyd iterations.
Sums have another order than on the CPU, and the iterations amplify rounding errors, so the two end
in different optima of nearly the same error.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from palettery.kernels.threads import CancellationCheck, never_cancel

SAMPLE_SIZE = 1 << 14
_OVERRELAXATION, _OFFSET = 1.9, 0.3
_FEW_CLUSTERS, _STARTS = 64, 4
_PASSES, _BREATHS, _SPLIT_PASSES, _DROP_PASSES, _FINAL_PASSES = 40, 6, 8, 12, 60
_FAR = 1e15  # coordinates of centroids without points; points are within [-1, 1]
_MAX_DISTANCES = 1 << 24  # distances, and as many float64 memberships, in memory at once


@dataclass(frozen=True)
class TorchClusters:
    """Centroids (G, k, d) in float64 and uint8 labels (G, N), as in `VectorClusters`."""

    centroids: Tensor
    labels: Tensor


@dataclass(frozen=True)
class _WeightedPoints:
    """Points (G, N, d), float32, with weights (G, N), float64."""

    points: Tensor
    weights: Tensor
    check_cancelled: CancellationCheck


def cluster(
    points: Tensor,
    k: int,
    sensitivity: Tensor | None,
    seed: int,
    check_cancelled: CancellationCheck = never_cancel,
) -> TorchClusters:
    """Cluster every group by squared error, each point weighted by its `sensitivity`.

    `check_cancelled` is called within each pass over the points. Peak memory is about 400 MB, plus
    20 bytes for each of the N d coordinates.

    Shapes: points (G, N, d) finite, sensitivity (G, N) not negative or None; k at most 256.
    """
    center = points.mean(1, keepdim=True, dtype=torch.float64)
    shifted = points - center
    scale = shifted.abs().amax((1, 2), keepdim=True)
    scale = torch.where(scale > 0, scale, 1)
    problem = _WeightedPoints(
        (shifted / scale).float(), _weights(points, sensitivity), check_cancelled
    )
    generator = torch.Generator(points.device).manual_seed(seed)
    noise = torch.rand(64, points.shape[2], generator=generator, device=points.device) * 2 - 1
    sample = _draw_sample(problem, generator)
    if k <= _FEW_CLUSTERS:
        centroids = _search_starts(sample, k, noise, generator)
    else:
        centroids = _breathe(problem, _seed_centroids(sample, k, 1, generator), noise)
    centroids, _ = _run_lloyd(problem, centroids, noise, _FINAL_PASSES)
    return _assign_labels(problem, points, centroids)


def _search_starts(
    sample: _WeightedPoints, k: int, noise: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the best of several starts: with few clusters, their local optima differ most."""
    points, weights = (
        part.repeat_interleave(_STARTS, 0) for part in (sample.points, sample.weights)
    )
    sample = _WeightedPoints(points, weights, sample.check_cancelled)
    centroids = _breathe(sample, _seed_centroids(sample, k, _STARTS, generator), noise)
    error = _moments(sample, centroids)[..., 1].sum(1)
    best = error.reshape(-1, _STARTS).argmin(1)
    return centroids[best + torch.arange(len(best), device=best.device) * _STARTS]


def _breathe(problem: _WeightedPoints, centroids: Tensor, noise: Tensor) -> Tensor:
    """Split the worst clusters, iterate, drop the least useful, iterate; keep improvements."""
    centroids, error = _run_lloyd(problem, centroids, noise, _PASSES)
    k = centroids.shape[1]
    extra = min(max(2, k // 16), max(1, k // 2))
    for _ in range(_BREATHS):
        trial = torch.cat((centroids, torch.full_like(centroids[:, :extra], _FAR)), 1)
        trial, _ = _run_lloyd(problem, trial, noise, _SPLIT_PASSES)
        trial = _drop_clusters(problem, trial, extra)
        trial, trial_error = _run_lloyd(problem, trial, noise, _DROP_PASSES)
        better = trial_error < error
        centroids = torch.where(better[:, None, None], trial, centroids)
        error = torch.where(better, trial_error, error)
    return centroids


def _weights(points: Tensor, sensitivity: Tensor | None) -> Tensor:
    """Return sensitivities of at most 1 in float64; ones if there are none."""
    if sensitivity is None:
        return torch.ones(points.shape[:2], dtype=torch.float64, device=points.device)
    peak = sensitivity.double().amax(1, keepdim=True)
    return torch.where(peak > 0, sensitivity.double() / peak, 1)


def _draw_sample(problem: _WeightedPoints, generator: torch.Generator) -> _WeightedPoints:
    """Return a weighted sample, drawn by weight and by share of the variance; small groups whole.

    Source: lightweight coresets (Bachem, Lucic, Krause 2018), with systematic sampling.
    """
    points, weights = problem.points, problem.weights
    if points.shape[1] <= 4 * SAMPLE_SIZE:
        return problem
    total = weights.sum(1, keepdim=True)
    mean = (points * weights[..., None]).sum(1, keepdim=True) / total[..., None]
    spread = (points - mean).square().sum(2) * weights
    variance_share = spread / spread.sum(1, keepdim=True).clamp(min=1e-300)
    share = (weights / total + variance_share) / (weights / total + variance_share).sum(
        1, keepdim=True
    )
    offset = torch.rand(1, generator=generator, device=points.device, dtype=torch.float64)
    quantiles = ((torch.arange(SAMPLE_SIZE, device=points.device) + offset) / SAMPLE_SIZE).expand(
        len(points), -1
    )
    rows = torch.searchsorted(share.cumsum(1), quantiles.contiguous()).clamp(
        max=points.shape[1] - 1
    )
    weights = (weights / share.clamp(min=1e-300)).gather(1, rows)
    return _WeightedPoints(_gather_rows(points, rows), weights, problem.check_cancelled)


def _gather_rows(points: Tensor, rows: Tensor) -> Tensor:
    return points.gather(1, rows[..., None].expand(-1, -1, points.shape[2]))


def _squared_distances(points: Tensor, centroids: Tensor) -> Tensor:
    """Return squared distances by differences: |c|^2 - 2xc would cancel. Shapes: -> (G, N, k)."""
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points, centroids, compute_mode=mode).square_()


def _seed_centroids(
    problem: _WeightedPoints, k: int, starts: int, generator: torch.Generator
) -> Tensor:
    """Return the seeds of greedy k-means++ with 2 + log k candidates for each centroid.

    Consecutive groups use different random numbers.
    Shapes: -> (G, k, d), G a multiple of starts.
    """
    points, weights = problem.points, problem.weights
    candidates = 2 + k.bit_length() * 7 // 10
    shape = (starts, k, candidates)
    draws = torch.rand(shape, generator=generator, device=points.device, dtype=torch.float64)
    draws = draws.repeat(len(points) // starts, 1, 1)
    errors = torch.ones_like(points[..., 0])
    seed_rows = []
    for j in range(k):
        problem.check_cancelled()
        cumulated = (weights * errors).cumsum(1)
        quantiles = draws[:, j, : 1 if j == 0 else candidates] * cumulated[:, -1:]
        rows = torch.searchsorted(cumulated, quantiles, right=True).clamp(max=points.shape[1] - 1)
        trials = _squared_distances(points, _gather_rows(points, rows))
        if j > 0:
            trials = torch.minimum(trials, errors[..., None])
        best = (weights[..., None] * trials).sum(1).argmin(1)[:, None]
        errors = trials.gather(2, best[:, None].expand(-1, trials.shape[1], 1)).squeeze(2)
        seed_rows.append(rows.gather(1, best))
    return _gather_rows(points, torch.cat(seed_rows, 1))


def _point_ranges(problem: _WeightedPoints, centroids: Tensor) -> list[slice]:
    """Return ranges of points whose distances to all centroids fit into memory."""
    groups, k, _ = centroids.shape
    size, count = max(1, _MAX_DISTANCES // (groups * k)), problem.points.shape[1]
    return [slice(start, start + size) for start in range(0, count, size)]


def _moments(problem: _WeightedPoints, centroids: Tensor) -> Tensor:
    """Return weight, error and sum of points of each cluster, in float64.

    Sums are products with a membership matrix, which unlike scatter-add have a fixed order on a
    GPU.

    Shapes: centroids (G, k, d) -> (G, k, 2 + d).
    """
    total = torch.zeros(1, dtype=torch.float64, device=centroids.device)
    for part in _point_ranges(problem, centroids):
        problem.check_cancelled()
        points = problem.points[:, part]
        error, label = _squared_distances(points, centroids).min(2, keepdim=True)
        terms = torch.cat((torch.ones_like(error), error, points), 2).double()
        total = total + _membership(label, problem.weights[:, part], centroids).mT @ terms
    return total


def _run_lloyd(
    problem: _WeightedPoints, centroids: Tensor, noise: Tensor, passes: int
) -> tuple[Tensor, Tensor]:
    """Run over-relaxed Lloyd iterations, the last one plain; return centroids and errors (G,).

    Errors are those before the last step. A centroid without points takes half of one of the
    clusters with the largest errors.
    """
    error = centroids.new_empty(0)
    for number in range(passes):
        moments = _moments(problem, centroids)
        weight, cost, error = moments[..., :1], moments[..., 1], moments[..., 1].sum(1)
        empty = weight == 0
        means = (moments[..., 2:] / torch.where(empty, 1, weight)).float()
        factor = 1.0 if number == passes - 1 else _OVERRELAXATION
        centroids = torch.where(empty, centroids, torch.lerp(centroids, means, factor))
        if number < passes - 1:
            centroids = _split_worst(centroids, weight[..., 0], cost, noise)
    return centroids, error


def _split_worst(centroids: Tensor, weight: Tensor, cost: Tensor, noise: Tensor) -> Tensor:
    """Split as many of the worst clusters as there are empty ones."""
    empty = weight == 0
    by_cost = cost.argsort(dim=1, descending=True, stable=True)
    donor = by_cost.gather(1, (empty.cumsum(1) - 1).clamp(min=0))
    usable = empty & (cost.gather(1, donor) > 0)
    rms = (cost / torch.where(empty, 1, weight)).sqrt().gather(1, donor)[..., None].float()
    offset = rms * _OFFSET * noise[torch.arange(len(noise)).repeat(4)[: centroids.shape[1]]]
    split = _gather_rows(centroids, donor) + offset
    moved = torch.zeros_like(centroids).scatter_add_(
        1, donor[..., None].expand_as(offset), torch.where(usable[..., None], -offset, 0)
    )
    return torch.where(usable[..., None], split, centroids + moved)


def _drop_clusters(problem: _WeightedPoints, centroids: Tensor, extra: int) -> Tensor:
    """Drop the `extra` clusters of least utility; neighbours of dropped ones only if necessary."""
    utility = _utilities(problem, centroids)
    distances = _squared_distances(centroids, centroids)
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    penalty = torch.zeros_like(utility)  # infinite once dropped, large where a neighbour was
    for _ in range(extra):
        worst = (utility.clamp(max=1e100) + penalty).argmin(1, keepdim=True)
        penalty.scatter_(1, worst, torch.inf)
        distances.masked_fill_(penalty.isinf()[:, None], torch.inf)
        rows = distances.gather(1, worst[..., None].expand(-1, 1, distances.shape[2])).squeeze(1)
        neighbour = rows.argmin(1, keepdim=True)
        penalty.scatter_reduce_(1, neighbour, torch.full_like(penalty[:, :1], 1e200), "amax")
    remaining = penalty.isinf().int().argsort(dim=1, stable=True)[:, : centroids.shape[1] - extra]
    return _gather_rows(centroids, remaining)


def _utilities(problem: _WeightedPoints, centroids: Tensor) -> Tensor:
    """Return the error added if each cluster's points moved to their second choice, (G, k)."""
    total = torch.zeros(1, dtype=torch.float64, device=centroids.device)
    for part in _point_ranges(problem, centroids):
        problem.check_cancelled()
        distance = _squared_distances(problem.points[:, part], centroids)
        nearest_two, label = distance.topk(2, dim=2, largest=False)
        increase = (nearest_two[..., 1] - nearest_two[..., 0]).double() * problem.weights[:, part]
        total = total + _membership(label[..., :1], increase, centroids).sum(1)
    return total


def _assign_labels(problem: _WeightedPoints, points: Tensor, centroids: Tensor) -> TorchClusters:
    """Return the nearest centroid of each point, and the means of the original points by label."""
    labels = []
    total = torch.zeros(1, dtype=torch.float64, device=centroids.device)
    for part in _point_ranges(problem, centroids):
        problem.check_cancelled()
        label = _squared_distances(problem.points[:, part], centroids).argmin(2, keepdim=True)
        labels.append(label[..., 0].to(torch.uint8))
        terms = torch.cat((torch.ones_like(points[:, part, :1]), points[:, part]), 2).double()
        total = total + _membership(label, problem.weights[:, part], centroids).mT @ terms
    weight, means = total[..., :1], total[..., 1:] / total[..., :1]
    # A centroid without weighted points has no mean and takes that of the heaviest one.
    fallback = means.gather(1, weight.argmax(1, keepdim=True).expand_as(means[:, :1]))
    return TorchClusters(torch.where(weight > 0, means, fallback), torch.cat(labels, 1))


def _membership(label: Tensor, weights: Tensor, centroids: Tensor) -> Tensor:
    """Return each point's weight in its cluster's column. Shapes: label (G, N, 1) -> (G, N, k)."""
    shape = (*label.shape[:2], centroids.shape[1])
    member = torch.zeros(shape, dtype=torch.float64, device=label.device)
    return member.scatter_(2, label, weights[..., None])
