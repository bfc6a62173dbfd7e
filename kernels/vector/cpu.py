"""K-means of d-dimensional points on the CPU, many groups at once.

Greedy k-means++ on a weighted sample, over-relaxed Lloyd iterations on the sample and then on all
points, a few rounds of breathing (split the worst clusters, drop the least useful, keep
improvements), and Lloyd iterations to convergence. Passes over the points run in threads. Their
sums are reduced in a fixed order, so the result depends only on the seed.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.threads import Check, available_threads, collect, no_check, thread_pool
from palettery.kernels.vector.lloyd import (
    COARSE,
    FINE,
    FINEST,
    TASKS_PER_GROUP,
    LloydProblem,
    LloydState,
    allocate_moments,
    breathe,
    collect_moments,
    run_lloyd,
)
from palettery.kernels.vector.point_passes import FAR, SUM, WEIGHT, assign_labels, padded_rows
from palettery.kernels.vector.seeding import draw_coreset, kmeans_plus_plus, use_distinct

_SAMPLE = 1 << 14
_FEW_CLUSTERS, _STARTS = 32, 4
# With few points, starts are cheap, and their optima differ more.
_FEW_POINTS, _FEW_CLUSTERS_OF_FEW_POINTS, _STARTS_OF_FEW_POINTS = 1 << 13, 64, 16
_START_PASSES, _TRIAL_PASSES, _EARLY_PASSES, _LATE_PASSES = 100, 4, 40, 300
_BREATHS, _SAMPLE_BREATHS = 4, 3
_BATCH_ELEMENTS = 1 << 21  # elements of each scratch array of a batch: 16 MB of float64
_NOISE = 4099
_COSTLY = 1 << 22  # distances in one pass over a group above which a pass is costly
_SAFE = 2.0**30  # magnitudes between 1 / _SAFE and _SAFE square well within float32


@dataclass(frozen=True)
class VectorClusters:
    """Clusters of every group.

    If a group has fewer than k distinct points, its last centroids repeat.
    """

    centroids: NDArray[np.float64]
    """Centroids (G, k, d)."""
    labels: NDArray[np.uint8]
    """Index (G, N) of the centroid nearest to each point."""
    iterations: NDArray[np.int32]
    """Number of passes (G,) over the points."""


def cluster(
    points: NDArray[np.floating],
    k: int,
    sensitivity: NDArray[np.floating] | None,
    seed: int,
    threads: int | None = None,
    check: Check = no_check,
) -> VectorClusters:
    """Cluster every group by squared error, each point weighted by its `sensitivity`.

    The result of a group depends neither on other groups nor on the number of threads (None: every
    core). `check` is called within each pass over the points. The error is zero for groups with at
    most k distinct points. Scratch memory is bounded; points that are not C-contiguous float32 of
    ordinary magnitude are copied.

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
    scratch = max(tasks * padded_rows(k) * (SUM + dimension), sample)
    batch = max(1, _BATCH_ELEMENTS // scratch)
    dtype = np.float64 if points.dtype == np.float64 else np.float32
    points = np.require(points, dtype, ["C", "W"])  # numba recompiles for any other layout
    noise = np.random.default_rng(seed).uniform(-1, 1, _NOISE)
    threads = threads or available_threads()
    with thread_pool(threads) as pool:

        def exact(group: int) -> bool:
            return bool(
                use_distinct(points[group], k, result.centroids[group], result.labels[group])
            )

        rest = np.flatnonzero(~np.array(collect(pool.map(exact, range(groups)), check)))
        for start in range(0, rest.size, batch):
            some = rest[start : start + batch]
            chosen = points if some.size == groups else points[some]
            weights = _weights(None if sensitivity is None else sensitivity[some], some.size)
            normal, center, scale = _normalize(chosen)
            problem = LloydProblem(normal, weights, noise, pool, threads, check)
            centroids, result.labels[some], result.iterations[some] = _fit(problem, k, seed)
            result.centroids[some] = centroids * scale + center
    return result


def _weights(sensitivity: NDArray[np.floating] | None, groups: int) -> NDArray[np.float32]:
    """Return the sensitivity as float32 of at most 1; a single 1 per group if there is none."""
    if sensitivity is None:
        return np.ones((groups, 1), np.float32)
    peak = sensitivity.max(axis=1, keepdims=True)
    relative = sensitivity.astype(np.float64) / np.where(peak > 0, peak, 1)
    return np.where(peak > 0, relative, 1).astype(np.float32)


def _normalize(
    points: NDArray[np.floating],
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Return points as float32 whose squares neither underflow nor overflow, and how to undo it.

    Shapes: points (G, N, d) -> points (G, N, d), center (G, 1, d), scale (G, 1, 1).
    """
    groups, _, dimension = points.shape
    center, scale = np.zeros((groups, 1, dimension)), np.ones((groups, 1, 1))
    peak = np.maximum(points.max(axis=(1, 2)), -points.min(axis=(1, 2)))
    if points.dtype == np.float32 and peak.min() > 1 / _SAFE and peak.max() < _SAFE:
        return points, center, scale
    low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
    center = low * 0.5 + high.astype(np.float64) * 0.5  # not (low + high) / 2: may overflow
    shifted = points - center
    scale = np.abs(shifted).max(axis=(1, 2), keepdims=True)
    return (shifted / scale).astype(np.float32), center, scale


def _fit(
    problem: LloydProblem, k: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.int32]]:
    """Return means (G, k, d), labels (G, N), passes (G,) of groups with over k distinct points."""
    groups, count, _ = problem.points.shape
    all_groups = np.arange(groups)
    if k > (_FEW_CLUSTERS_OF_FEW_POINTS if count <= _FEW_POINTS else _FEW_CLUSTERS):
        fit = _search_sample(_draw_sample(problem, 2 * _SAMPLE, seed), k, 1, seed)
        run_lloyd(problem, fit, all_groups, _EARLY_PASSES, COARSE)
        breathe(problem, fit, all_groups, k, _BREATHS)
    else:
        # Local optima differ more, and a sample has enough points per cluster for breathing.
        number = _starts(count)
        sample = _draw_sample(problem, _SAMPLE, seed).repeat(number)
        starts = _search_sample(sample, k, number, seed)
        breathe(sample, starts, np.arange(groups * number), k, _SAMPLE_BREATHS)
        fit = _best_start(problem, starts, number)
    # If a pass is cheap, the slow convergence of flat valleys is affordable.
    tolerance = FINEST if count * k < _COSTLY else FINE
    run_lloyd(problem, fit, all_groups, _LATE_PASSES, tolerance)
    labels = np.empty((groups, count), np.uint8)
    return _means(problem, fit, k, labels), labels, fit.passes


def _draw_sample(problem: LloydProblem, size: int, seed: int) -> LloydProblem:
    """Return a sample of the problem with nearly the same solution; a small problem as it is."""
    groups, count, dimension = problem.points.shape
    if count <= 2 * size:
        return problem
    points = np.empty((groups, size, dimension), np.float32)
    weights = np.empty((groups, size), np.float32)
    offset = np.random.default_rng(seed).random()

    def run(group: int) -> None:
        whole = problem.points[group], problem.weights[group], problem.step
        draw_coreset(*whole, offset, points[group], weights[group])

    collect(problem.pool.map(run, range(groups)), problem.check)
    return replace(problem, points=points, weights=weights)


def _search_sample(sample: LloydProblem, k: int, starts: int, seed: int) -> LloydState:
    """Seed and iterate on a sample; every `starts` consecutive groups start differently."""
    fit = _seed_centroids(sample, k, starts, seed)
    run_lloyd(sample, fit, np.arange(fit.counts.size), _START_PASSES, COARSE)
    return LloydState(fit.centroids, fit.counts, fit.errors, np.zeros_like(fit.passes))


def _starts(count: int) -> int:
    return _STARTS_OF_FEW_POINTS if count <= _FEW_POINTS else _STARTS


def _best_start(problem: LloydProblem, starts: LloydState, number: int) -> LloydState:
    """Return the start that is best after a few passes over all points, not just the sample."""
    all_groups = np.arange(problem.points.shape[0])
    best = starts.select_start(number, 0)
    run_lloyd(problem, best, all_groups, _TRIAL_PASSES, COARSE)
    for start in range(1, number):
        fit = starts.select_start(number, start)
        run_lloyd(problem, fit, all_groups, _TRIAL_PASSES, COARSE)
        best.keep_better(fit)
    return best


def _seed_centroids(problem: LloydProblem, k: int, starts: int, seed: int) -> LloydState:
    """Return the seeds of greedy k-means++ with 2 + log k candidates for each centroid.

    The random numbers differ between `starts` consecutive groups and then repeat, so that they do
    not depend on the number of preceding groups.
    """
    groups, _, dimension = problem.points.shape
    centroids = np.empty((groups, padded_rows(k), dimension), np.float32)
    draws = np.random.default_rng(seed).random((starts, k, 2 + int(np.log(k))))

    def run(group: int) -> None:
        whole = problem.points[group], problem.weights[group], problem.step
        kmeans_plus_plus(*whole, k, problem.axes, draws[group % starts], centroids[group])

    collect(problem.pool.map(run, range(groups)), problem.check)
    return LloydState(
        centroids, np.full(groups, k), np.full(groups, np.inf), np.zeros(groups, np.int32)
    )


def _means(
    problem: LloydProblem, fit: LloydState, k: int, labels: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Fill labels (G, N) with the nearest centroids; return the means (G, k, d) of the clusters."""
    all_groups = np.arange(fit.counts.size)
    parts = allocate_moments(problem, fit)
    collect_moments(problem, fit, all_groups, parts)

    def run(tasks: tuple[int, int]) -> None:
        assign_labels(
            problem.points,
            fit.centroids,
            problem.axes,
            all_groups,
            problem.task_size,
            tasks,
            labels,
        )

    problem.in_tasks(all_groups.size, fit.centroids.shape[1], run)
    total = parts[:, 0, :k].copy()
    for part in range(1, problem.tasks_per_group):
        total += parts[:, part, :k]
    weight = total[..., WEIGHT, None]
    centroids = fit.centroids[:, :k].astype(np.float64)
    # Centroids without points, or only with points of weight zero, are far away.
    centroids = np.where(np.abs(centroids) >= FAR / 2, centroids[:, :1], centroids)
    return np.where(weight > 0, total[..., SUM:] / np.where(weight > 0, weight, 1), centroids)
