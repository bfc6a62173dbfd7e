"""K-means of d-dimensional points on the CPU, many groups at once.

Small groups are searched by one thread each; passes over large groups are split over threads. Sums
are reduced in a fixed order, so the result depends on the seed, but not on the number of threads.
"""

from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.settings import VectorKMeans
from palettery.kernels.threads import (
    CancellationCheck,
    available_threads,
    collect,
    never_cancel,
    thread_pool,
)
from palettery.kernels.vector.large_groups import (
    FINAL_PASSES,
    SAMPLE_SIZE,
    final_tolerance,
    num_starts_large,
    search_large_groups,
)
from palettery.kernels.vector.lloyd import (
    MAX_TASKS_PER_GROUP,
    LloydProblem,
    LloydState,
    allocate_moments,
    collect_moments,
    run_lloyd,
)
from palettery.kernels.vector.point_passes import (
    FAR,
    SUM,
    WEIGHT,
    assign_labels,
    padded_rows,
    squared_error,
)
from palettery.kernels.vector.seeding import Seeding, use_distinct
from palettery.kernels.vector.small_groups import (
    is_small,
    num_starts_small,
    search_small_groups,
)

_BATCH_ELEMENTS = 1 << 21  # elements of each scratch array of a batch: 16 MB of float64
_NOISE_SIZE = 4099
_MAX_MAGNITUDE = 2.0**30  # magnitudes between 1 / this and this square well within float32


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
    check_cancelled: CancellationCheck = never_cancel,
    kmeans: VectorKMeans | None = None,
) -> VectorClusters:
    """Cluster every group by squared error, each point weighted by its `sensitivity`.

    The result of a group depends neither on other groups nor on the number of threads (None: every
    core). `check_cancelled` is called within each pass over the points. The error is zero for
    groups with at most k distinct points. Scratch memory is bounded; points are copied unless they
    are C-contiguous float32 of ordinary magnitude. `kmeans` may increase the effort; then the error
    is at most that of the default.

    Shapes: points (G, N, d) finite, sensitivity (G, N) not negative; k at most 256.
    """
    groups, count, dimension = points.shape
    result = VectorClusters(
        np.empty((groups, k, dimension)),
        np.empty((groups, count), np.uint8),
        np.zeros(groups, np.int32),
    )
    dtype = np.float64 if points.dtype == np.float64 else np.float32
    points = np.require(points, dtype, ["C", "W"])  # numba recompiles for any other layout
    threads = threads or available_threads()
    with thread_pool(threads) as pool:
        remaining = _fill_few_distinct(points, k, result, pool, check_cancelled)
        batch_size = _groups_at_once(count, k, dimension)
        for start in range(0, remaining.size, batch_size):
            batch_groups = remaining[start : start + batch_size]
            batch_points = points if batch_groups.size == groups else points[batch_groups]
            weights = _weights(
                None if sensitivity is None else sensitivity[batch_groups], batch_groups.size
            )
            normalized, center, scale = _normalize(batch_points)
            problem = LloydProblem(
                normalized, weights, _noise(seed), pool, threads, check_cancelled
            )
            clusters = _search(problem, k, Seeding(seed))
            if kmeans is not None:
                _improve(problem, k, seed, kmeans, clusters)
            result.labels[batch_groups], result.iterations[batch_groups] = (
                clusters.labels,
                clusters.iterations,
            )
            result.centroids[batch_groups] = clusters.centroids * scale + center
    return result


@lru_cache(maxsize=16)
def _noise(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-1, 1, _NOISE_SIZE)


def _groups_at_once(count: int, k: int, dimension: int) -> int:
    """Return how many groups of `count` points keep scratch memory bounded."""
    tasks = min(MAX_TASKS_PER_GROUP, -(-count // SAMPLE_SIZE))
    sample = num_starts_large(count, k) * min(count, 2 * SAMPLE_SIZE) * (1 + dimension)
    return max(1, _BATCH_ELEMENTS // max(tasks * padded_rows(k) * (SUM + dimension), sample))


def _fill_few_distinct(
    points: NDArray[np.floating],
    k: int,
    result: VectorClusters,
    pool: Executor,
    check_cancelled: CancellationCheck,
) -> NDArray[np.intp]:
    """Fill the result of groups with at most k distinct points; return the other groups."""

    def use_distinct_points(group: int) -> bool:
        return bool(use_distinct(points[group], k, result.centroids[group], result.labels[group]))

    map_groups = pool.map if len(points) > 1 else map
    return np.flatnonzero(
        ~np.array(collect(map_groups(use_distinct_points, range(len(points))), check_cancelled))
    )


def _weights(sensitivity: NDArray[np.floating] | None, groups: int) -> NDArray[np.float32]:
    """Return the sensitivity as float32, scaled to at most 1; one weight of 1 per group if None."""
    if sensitivity is None:
        return np.ones((groups, 1), np.float32)
    peak = sensitivity.max(axis=1, keepdims=True)
    relative = sensitivity.astype(np.float64) / np.where(peak > 0, peak, 1)
    return np.where(peak > 0, relative, 1).astype(np.float32)


def _normalize(
    points: NDArray[np.floating],
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Return float32 points whose squares neither underflow nor overflow, their center and scale.

    Shapes: points (G, N, d) -> points (G, N, d), center (G, 1, d), scale (G, 1, 1).
    """
    groups, _, dimension = points.shape
    center, scale = np.zeros((groups, 1, dimension)), np.ones((groups, 1, 1))
    peak = np.maximum(points.max(axis=(1, 2)), -points.min(axis=(1, 2)))
    if (
        points.dtype == np.float32
        and peak.min() > 1 / _MAX_MAGNITUDE
        and peak.max() < _MAX_MAGNITUDE
    ):
        return points, center, scale
    low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
    center = low * 0.5 + high.astype(np.float64) * 0.5  # not (low + high) / 2: may overflow
    shifted = points - center
    scale = np.abs(shifted).max(axis=(1, 2), keepdims=True)
    return (shifted / scale).astype(np.float32), center, scale


def _search(problem: LloydProblem, k: int, seeding: Seeding) -> VectorClusters:
    """Cluster groups with more than k distinct points."""
    search = search_small_groups if is_small(problem, k) else search_large_groups
    return _to_clusters(problem, k, search(problem, k, seeding))


def _to_clusters(problem: LloydProblem, k: int, state: LloydState) -> VectorClusters:
    """Assign every point to its nearest centroid; return the clusters with their means."""
    labels = np.empty(problem.points.shape[:2], np.uint8)
    return VectorClusters(_means(problem, state, k, labels), labels, state.passes)


def _improve(
    problem: LloydProblem, k: int, seed: int, kmeans: VectorKMeans, clusters: VectorClusters
) -> None:
    """Replace clusters by better ones from the additional starts and passes of `kmeans`."""
    count, are_small = problem.points.shape[1], is_small(problem, k)
    default_starts = num_starts_small(problem, k) if are_small else num_starts_large(count, k)
    candidates = kmeans.n_local_trials or 0
    extra_searches = max(
        -(-kmeans.n_init // default_starts) - 1, int(candidates > Seeding(seed).candidates(k))
    )
    for number in range(1, extra_searches + 1):
        _copy_better(problem, clusters, _search(problem, k, Seeding((seed, number), candidates)))
    if not are_small and (kmeans.max_iter > FINAL_PASSES or kmeans.tol < final_tolerance(count, k)):
        groups = np.arange(len(problem.points))
        centroids = np.full((groups.size, padded_rows(k), problem.points.shape[2]), FAR)
        centroids[:, :k] = clusters.centroids
        counts, errors = np.full(groups.size, k), np.full(groups.size, np.inf)
        state = LloydState(centroids, counts, errors, clusters.iterations.copy())
        run_lloyd(problem, state, groups, kmeans.max_iter, kmeans.tol)
        _copy_better(problem, clusters, _to_clusters(problem, k, state))


def _copy_better(problem: LloydProblem, clusters: VectorClusters, other: VectorClusters) -> None:
    """Copy the groups that have a smaller error in `other` to `clusters`."""

    def copy_if_better(group: int) -> None:
        data = problem.points[group], problem.weights[group], problem.step
        error, other_error = (
            squared_error(*data, candidate.centroids[group], candidate.labels[group])
            for candidate in (clusters, other)
        )
        if other_error < error:
            clusters.centroids[group], clusters.labels[group] = (
                other.centroids[group],
                other.labels[group],
            )
            clusters.iterations[group] = other.iterations[group]

    problem.run_all(copy_if_better, range(len(problem.points)))


def _means(
    problem: LloydProblem, state: LloydState, k: int, labels: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Fill labels (G, N) with the nearest centroids; return the means (G, k, d) of the clusters."""
    all_groups = np.arange(state.counts.size)
    parts = allocate_moments(problem, state)
    collect_moments(problem, state, all_groups, parts)

    def run(tasks: tuple[int, int]) -> None:
        assign_labels(
            problem.points,
            state.centroids,
            problem.axes,
            all_groups,
            problem.task_size,
            tasks,
            labels,
        )

    problem.in_tasks(all_groups.size, state.centroids.shape[1], run)
    moments = parts[:, 0, :k].copy()
    for part in range(1, problem.tasks_per_group):
        moments += parts[:, part, :k]
    weight = moments[..., WEIGHT, None]
    centroids = state.centroids[:, :k].astype(np.float64)
    # Centroids without points, or only with points of weight zero, are far away.
    centroids = np.where(np.abs(centroids) >= FAR / 2, centroids[:, :1], centroids)
    return np.where(weight > 0, moments[..., SUM:] / np.where(weight > 0, weight, 1), centroids)
