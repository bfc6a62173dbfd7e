"""K-means of d-dimensional points on the CPU, many groups at once.

Greedy k-means++ on a weighted sample, over-relaxed Lloyd on the sample and then on all points,
a few rounds of breathing (split the worst clusters, drop the least useful, keep what is better),
and Lloyd to convergence. Passes over the points run in threads; their sums are reduced in a fixed
order, so the result depends on the seed alone.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.threads import Check, available_threads, collected, pool_of, unchecked
from palettery.kernels.vector.blocks import FAR, SUM, WEIGHT, labels_of, padded
from palettery.kernels.vector.lloyd import (
    COARSE,
    FINE,
    FINEST,
    TASKS_PER_GROUP,
    Fit,
    Problem,
    breathe,
    collect_moments,
    moments_like,
    relax,
)
from palettery.kernels.vector.seeding import plus_plus, thin, use_distinct

_SAMPLE = 1 << 14
_FEW_CLUSTERS, _STARTS = 32, 4
# With few points starts are cheap, and their optima differ the more.
_FEW_POINTS, _FEW_CLUSTERS_OF_FEW_POINTS, _STARTS_OF_FEW_POINTS = 1 << 13, 64, 16
_START_PASSES, _TRIAL_PASSES, _EARLY_PASSES, _LATE_PASSES = 100, 4, 40, 300
_BREATHS, _SAMPLE_BREATHS = 4, 3
_BATCH_ELEMENTS = 1 << 21  # of each scratch array of a batch of groups: 16 MB of float64
_NOISE = 4099
_COSTLY = 1 << 22  # distances of a pass over one group
_SAFE = 2.0**30  # magnitudes between 1 / _SAFE and _SAFE square well within float32


@dataclass(frozen=True)
class VectorClusters:
    """Centroids (G, k, d), labels (G, N) of the nearest centroid, and passes (G,) over the points.

    Where a group has fewer than k distinct points its last centroids repeat.
    """

    centroids: NDArray[np.float64]
    labels: NDArray[np.uint8]
    iterations: NDArray[np.int32]


def cluster(
    points: NDArray[np.floating],
    k: int,
    sensitivity: NDArray[np.floating] | None,
    seed: int,
    threads: int | None = None,
    check: Check = unchecked,
) -> VectorClusters:
    """K-means of every group by squared error, each point weighted by its `sensitivity`.

    Groups do not influence each other, nor does the number of threads (None: every core). `check`
    is called within each pass over the points. The
    error is zero where a group has at most k distinct points. Scratch memory is bounded; points
    that are not C-contiguous float32 of ordinary magnitude are copied to that.

    Shapes: points (G, N, d) finite, sensitivity (G, N) not negative; k at most 256.
    """
    groups, count, dimension = points.shape
    result = VectorClusters(
        np.empty((groups, k, dimension)),
        np.empty((groups, count), np.uint8),
        np.zeros(groups, np.int32),
    )
    tasks = min(TASKS_PER_GROUP, -(-count // _SAMPLE))
    sample = _starts(count) * min(count, 2 * _SAMPLE) * (1 + dimension)
    scratch = max(tasks * padded(k) * (SUM + dimension), sample)
    batch = max(1, _BATCH_ELEMENTS // scratch)
    dtype = np.float64 if points.dtype == np.float64 else np.float32
    points = np.require(points, dtype, ["C", "W"])  # kernels compile anew for any other layout
    noise = np.random.default_rng(seed).uniform(-1, 1, _NOISE)
    threads = threads or available_threads()
    with pool_of(threads) as pool:

        def exact(group: int) -> bool:
            return bool(
                use_distinct(points[group], k, result.centroids[group], result.labels[group])
            )

        rest = np.flatnonzero(~np.array(collected(pool.map(exact, range(groups)), check)))
        for start in range(0, rest.size, batch):
            some = rest[start : start + batch]
            chosen = points if some.size == groups else points[some]
            weights = _weights(None if sensitivity is None else sensitivity[some], some.size)
            normal, center, scale = _normalized(chosen)
            problem = Problem(normal, weights, noise, pool, threads, check)
            centroids, result.labels[some], result.iterations[some] = _fit(problem, k, seed)
            result.centroids[some] = centroids * scale + center
    return result


def _weights(sensitivity: NDArray[np.floating] | None, groups: int) -> NDArray[np.float32]:
    """Sensitivity as float32 of at most 1; a single 1 a group where there is nothing to weigh."""
    if sensitivity is None:
        return np.ones((groups, 1), np.float32)
    peak = sensitivity.max(axis=1, keepdims=True)
    relative = sensitivity.astype(np.float64) / np.where(peak > 0, peak, 1)
    return np.where(peak > 0, relative, 1).astype(np.float32)


def _normalized(
    points: NDArray[np.floating],
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Points as float32 whose squares neither vanish nor overflow, with what undoes it.

    Shapes: points (G, N, d) -> points (G, N, d), center (G, 1, d), scale (G, 1, 1).
    """
    groups, _, dimension = points.shape
    center, scale = np.zeros((groups, 1, dimension)), np.ones((groups, 1, 1))
    peak = np.maximum(points.max(axis=(1, 2)), -points.min(axis=(1, 2)))
    if points.dtype == np.float32 and peak.min() > 1 / _SAFE and peak.max() < _SAFE:
        return points, center, scale
    low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
    center = low * 0.5 + high.astype(np.float64) * 0.5  # halves first: the sum may overflow
    shifted = points - center
    scale = np.abs(shifted).max(axis=(1, 2), keepdims=True)
    return (shifted / scale).astype(np.float32), center, scale


def _fit(
    problem: Problem, k: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.int32]]:
    """Means (G, k, d), labels (G, N) and passes (G,) of groups with more than k distinct points."""
    groups, count, _ = problem.points.shape
    everyone = np.arange(groups)
    if k > (_FEW_CLUSTERS_OF_FEW_POINTS if count <= _FEW_POINTS else _FEW_CLUSTERS):
        fit = _searched(_sampled(problem, 2 * _SAMPLE, seed), k, 1, seed)
        relax(problem, fit, everyone, _EARLY_PASSES, COARSE)
        breathe(problem, fit, everyone, k, _BREATHS)
    else:
        # Their optima differ more, and a sample has points enough per cluster to breathe on.
        number = _starts(count)
        sample = _sampled(problem, _SAMPLE, seed).repeated(number)
        starts = _searched(sample, k, number, seed)
        breathe(sample, starts, np.arange(groups * number), k, _SAMPLE_BREATHS)
        fit = _best_start(problem, starts, number)
    # Long flat valleys are worth walking to the end where a pass is cheap.
    tolerance = FINEST if count * k < _COSTLY else FINE
    relax(problem, fit, everyone, _LATE_PASSES, tolerance)
    labels = np.empty((groups, count), np.uint8)
    return _means(problem, fit, k, labels), labels, fit.passes


def _sampled(problem: Problem, size: int, seed: int) -> Problem:
    """A smaller problem with nearly the same solution, or the problem itself if it is small."""
    groups, count, dimension = problem.points.shape
    if count <= 2 * size:
        return problem
    points = np.empty((groups, size, dimension), np.float32)
    weights = np.empty((groups, size), np.float32)
    offset = np.random.default_rng(seed).random()

    def run(group: int) -> None:
        whole = problem.points[group], problem.weights[group], problem.step
        thin(*whole, offset, points[group], weights[group])

    collected(problem.pool.map(run, range(groups)), problem.check)
    return replace(problem, points=points, weights=weights)


def _searched(sample: Problem, k: int, starts: int, seed: int) -> Fit:
    """A first descent; every `starts` consecutive groups begin differently."""
    fit = _seeded(sample, k, starts, seed)
    relax(sample, fit, np.arange(fit.counts.size), _START_PASSES, COARSE)
    return Fit(fit.centroids, fit.counts, fit.errors, np.zeros_like(fit.passes))


def _starts(count: int) -> int:
    return _STARTS_OF_FEW_POINTS if count <= _FEW_POINTS else _STARTS


def _best_start(problem: Problem, starts: Fit, number: int) -> Fit:
    """What became the best after a few passes over all points; a sample alone would mislead."""
    everyone = np.arange(problem.points.shape[0])
    best = starts.every(number, 0)
    relax(problem, best, everyone, _TRIAL_PASSES, COARSE)
    for start in range(1, number):
        fit = starts.every(number, start)
        relax(problem, fit, everyone, _TRIAL_PASSES, COARSE)
        best.keep_better(fit)
    return best


def _seeded(problem: Problem, k: int, starts: int, seed: int) -> Fit:
    """Greedy k-means++ with 2 + log k candidates each.

    Every `starts` consecutive groups draw differently, and the next as many like them: what a
    group gets must not depend on the groups before it.
    """
    groups, _, dimension = problem.points.shape
    centroids = np.empty((groups, padded(k), dimension), np.float32)
    draws = np.random.default_rng(seed).random((starts, k, 2 + int(np.log(k))))

    def run(group: int) -> None:
        whole = problem.points[group], problem.weights[group], problem.step
        plus_plus(*whole, k, problem.axes, draws[group % starts], centroids[group])

    collected(problem.pool.map(run, range(groups)), problem.check)
    return Fit(centroids, np.full(groups, k), np.full(groups, np.inf), np.zeros(groups, np.int32))


def _means(problem: Problem, fit: Fit, k: int, labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Fill labels (G, N) with the nearest centroids; the means (G, k, d) of what has a label."""
    everyone = np.arange(fit.counts.size)
    parts = moments_like(problem, fit)
    collect_moments(problem, fit, everyone, parts)

    def run(tasks: tuple[int, int]) -> None:
        labels_of(
            problem.points, fit.centroids, problem.axes, everyone, problem.task_size, tasks, labels
        )

    problem.in_tasks(everyone.size, fit.centroids.shape[1], run)
    total = parts[:, 0, :k].copy()
    for part in range(1, problem.tasks_per_group):
        total += parts[:, part, :k]
    weight = total[..., WEIGHT, None]
    centroids = fit.centroids[:, :k].astype(np.float64)
    # Centroids nothing was left for (all points on others, or of weight zero) lie far away.
    centroids = np.where(np.abs(centroids) >= FAR / 2, centroids[:, :1], centroids)
    return np.where(weight > 0, total[..., SUM:] / np.where(weight > 0, weight, 1), centroids)
