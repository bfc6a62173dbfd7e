"""K-means of one small group: a few starts, swaps of single centroids, moves of single points.

Groups of hundreds to thousands of points have many local optima, and a pass over one takes
microseconds. So the search is wider than for large groups, and one kernel call does all of it.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.vector.lloyd import LloydProblem, LloydState
from palettery.kernels.vector.point_passes import (
    find_nearest,
    find_second_nearest,
    kernel,
    padded_rows,
)
from palettery.kernels.vector.seeding import Seeding, kmeans_plus_plus
from palettery.kernels.vector.small_lloyd import (
    MIN_RELATIVE_REST,
    add_point,
    allocate_clusters,
    copy_clusters,
    load_group,
    reset_labels,
    run_lloyd,
    sum_clusters,
)

_MAX_POINTS = 1 << 13
_MAX_WORK = 1 << 21  # product of points, clusters and dimensions
_START_PASSES, _SWAP_PASSES, _PASSES, _POINT_PASSES = 60, 6, 300, 20
_START_TOLERANCE, _SWAP_TOLERANCE = 1e-4, 1e-4
_FEW_CLUSTERS = 8  # with so few, a swap affects much of the group and takes more passes to pay off
_SEARCHES, _FAILURES = (10, 5)  # with few clusters: searches, and failed swaps that end one
_MIN_SWAP_GAIN = 1e-6  # relative decrease of the error for which a swap is kept
_FLOAT32_MARGIN, _FLOAT64_MARGIN = 0.999, 1e-9  # margins for rounding in float32 and float64
_SWAP_POINTS = 4  # random points that are tried for each swap
_SWAP_WORK = 1 << 27  # product of points, clusters, dimensions and swaps
_START_WORK, _FAILED_WORK = 1 << 16, 1 << 18  # the same for starts, and for failed swaps


def is_small(problem: LloydProblem, k: int) -> bool:
    """Return whether groups are searched by `search_small_groups`."""
    _, count, dimension = problem.points.shape
    return bool(count <= _MAX_POINTS and count * k * dimension <= _MAX_WORK)


def num_starts_small(problem: LloydProblem, k: int) -> int:
    """Return the number of starts that are compared: more if they are cheap or clusters are few."""
    fewest = 2 * _SEARCHES if k <= _FEW_CLUSTERS else 2
    return int(max(fewest, min(16, _START_WORK // (problem.points[0].size * k))))


def search_small_groups(problem: LloydProblem, k: int, seeding: Seeding) -> LloydState:
    """Return the centroids of groups of more than k distinct points, each in one thread."""
    groups, count, dimension = problem.points.shape
    work = count * k * dimension
    max_failures = _FAILURES
    if k > _FEW_CLUSTERS:
        max_failures = 2 * k + max(8, min(64, _FAILED_WORK // work))
    start_draws, swap_draws = _random_numbers(
        seeding, k, num_starts_small(problem, k), max(16, min(1024, _SWAP_WORK // work))
    )
    state = LloydState(
        np.empty((groups, padded_rows(k), dimension), np.float32),
        np.full(groups, k),
        np.empty(groups),
        np.empty(groups, np.int32),
    )

    start_batches = np.array_split(start_draws, _SEARCHES if k <= _FEW_CLUSTERS else 1)

    def search_group(group: int) -> None:
        centroids = np.empty_like(state.centroids[group])
        state.errors[group], state.passes[group] = np.inf, 0
        for batch_draws in start_batches:
            error, passes = fit_small(
                problem.points[group], problem.weights[group], problem.step, k, problem.axes,
                batch_draws, swap_draws, max_failures, centroids,
            )  # fmt: skip
            state.passes[group] += passes
            if error < state.errors[group]:
                state.errors[group], state.centroids[group] = error, centroids

    problem.run_all(search_group, range(groups))
    return state


@lru_cache(maxsize=16)
def _random_numbers(
    seeding: Seeding, k: int, starts: int, swaps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return numbers in [0, 1) for the starts and the swaps of every group."""
    generator = np.random.default_rng(seeding.seed)
    seeds = generator.random((starts, k, seeding.candidates(k)))
    return seeds, generator.random((swaps, _SWAP_POINTS))


@kernel
def fit_small(points, weights, step, k, axes, start_draws, swap_draws, max_failures, centroids):  # type: ignore[no-untyped-def]
    """Fill the centroids of a group with more than k distinct points; return error and passes.

    The best of some starts of greedy k-means++ is improved by swaps, until `max_failures` of
    them fail in succession, and then by moves of single points.

    Shapes: points (N, d), weights (N,) with step 1 or (1,) with step 0, random numbers in [0, 1),
        start_draws (starts, k, candidates) and swap_draws (most swaps, candidates) -> centroids
        (4 * n, d).
    """
    group = load_group(points, weights, step)
    clusters = allocate_clusters(group, k, centroids.shape[0])
    best = allocate_clusters(group, k, centroids.shape[0])
    passes, least_error = 0, np.inf
    for start in range(start_draws.shape[0]):
        kmeans_plus_plus(
            group.points, group.masses, 1, k, axes, start_draws[start], clusters.centroids
        )
        reset_labels(clusters)
        error, new_passes = run_lloyd(group, clusters, axes, _START_PASSES, _START_TOLERANCE)
        passes += new_passes
        if error < least_error:
            least_error = error
            copy_clusters(clusters, best)
    passes += _swap_centroids(group, clusters, best, axes, swap_draws, max_failures)
    error, new_passes = run_lloyd(group, best, axes, _PASSES, 0.0)
    error -= _move_points(group, best, axes)
    for j in range(centroids.shape[0]):
        for t in range(centroids.shape[1]):
            c = np.float64(best.centroids[j, t])
            centroids[j, t] = np.float32(c + group.center[t]) if j < k else best.centroids[j, t]
    return error, passes + new_passes


@kernel
def _swap_centroids(group, clusters, best, axes, swap_draws, max_failures):  # type: ignore[no-untyped-def]
    """Improve the best clusters by swaps of centroids for points; return the number of passes.

    A swap is kept if the error is less after some iterations, which then go on until they converge.

    Source: random swap (Franti 2018).
    """
    first, second = np.empty_like(clusters.distance), np.empty_like(clusters.distance)
    distances, cumulated = np.empty_like(first), np.empty(group.masses.size)
    loss = np.empty(clusters.k)
    least_error, passes, failed, converge = np.inf, 0, 0, True
    swap_passes = _SWAP_PASSES if clusters.k > _FEW_CLUSTERS else 2 * _SWAP_PASSES
    for trial in range(swap_draws.shape[0]):
        copy_clusters(best, clusters)
        if not converge:
            row, j = _choose_swap(
                group,
                best.nearest,
                axes,
                first,
                second,
                cumulated,
                swap_draws[trial],
                distances,
                loss,
            )
            for t in range(group.points.shape[1]):
                clusters.centroids[j, t] = group.points[row, t]
        limit = _PASSES if converge else swap_passes
        error, new_passes = run_lloyd(group, clusters, axes, limit, _SWAP_TOLERANCE)
        passes += new_passes
        better = error < least_error * (1 - _MIN_SWAP_GAIN)
        failed += not better
        if better:
            least_error, failed = error, 0
            copy_clusters(clusters, best)
        if failed == max_failures or clusters.k == 1 or least_error <= 0:
            break
        if converge:
            _measure_errors(group, best, axes, first, second, cumulated)
            passes += 2
        converge = better and not converge
    return passes


@kernel
def _measure_errors(group, clusters, axes, first, second, cumulated):  # type: ignore[no-untyped-def]
    """Fill the distances to the nearest and second nearest centroid, and the cumulated errors."""
    find_nearest(
        group.columns, clusters.centroids, clusters.codes, axes, clusters.distance, clusters.nearest
    )
    find_second_nearest(group.columns, clusters.centroids, axes, first, second)
    total = 0.0
    for i in range(cumulated.size):
        total += group.masses[i] * np.float64(first[i])
        cumulated[i] = total


@kernel
def _choose_swap(group, index, axes, first, second, cumulated, draws, distances, loss):  # type: ignore[no-untyped-def]
    """Return the point and the centroid whose swap gains most before any centroid moves.

    Points are drawn in proportion to their errors; all centroids are tried.

    Shapes: distances to the nearest and the second nearest centroid and number of the nearest
        (M,), cumulated errors (M,), draws (n,) in [0, 1).
    Source: Lattanzi and Sohler 2019.
    """
    gain, row, dropped = -np.inf, 0, 0
    masses, k = group.masses, loss.size
    for draw in draws:
        at = np.searchsorted(cumulated, draw * cumulated[-1], "right")
        at = min(at, masses.size - 1)
        distances_to(group.columns, group.points, at, axes, distances)
        for j in range(k):
            loss[j] = 0.0
        total = 0.0
        for i in range(masses.size):
            closer = min(distances[i], first[i])
            total += masses[i] * np.float64(first[i] - closer)
            loss[np.uint32(index[i])] += masses[i] * np.float64(
                min(distances[i], second[i]) - closer
            )
        for j in range(k):
            if total - loss[j] > gain:
                gain, row, dropped = total - loss[j], at, j
    return row, dropped


@kernel
def distances_to(columns, points, row, axes, distances):  # type: ignore[no-untyped-def]
    """Fill the squared distances of all points to one of them.

    Shapes: columns (d, M), points (N, d) -> distances (M,).
    """
    dimensions = len(axes) if len(axes) > 0 else columns.shape[0]
    for i in range(distances.size):
        a = np.float32(0)
        for t in range(dimensions):
            u = columns[t, i] - points[row, t]
            a += u * u
        distances[i] = a


@kernel
def _move_points(group, clusters, axes):  # type: ignore[no-untyped-def]
    """Move single points to other clusters while that lowers the error; return the gain.

    A point of weight w leaves a cluster of weight W at squared distance D from its mean for one of
    weight W' at D' if D W / (W - w) > D' W' / (W' + w): the means move along. Points that are
    too far from their second nearest centroid for that are skipped.

    Source: Hartigan and Wong 1979.
    """
    points, masses, labels, sums = group.points, group.masses, clusters.labels, clusters.sums
    means, gain = np.zeros(clusters.centroids.shape), 0.0
    first, second = np.empty_like(clusters.distance), np.empty_like(clusters.distance)
    sum_clusters(points, masses, labels, sums)
    for j in range(clusters.k):
        _set_mean(sums, j, means, clusters.centroids)
    for _ in range(_POINT_PASSES):
        find_second_nearest(group.columns, clusters.centroids, axes, first, second)
        lightest = np.inf
        for j in range(clusters.k):
            lightest = min(lightest, sums[j, 0])
        moved = 0
        for i in range(masses.size):
            mass, old = np.float64(masses[i]), labels[i]
            remaining = sums[old, 0] - mass
            bound = second[i] * (lightest / (lightest + mass))
            if (
                remaining <= MIN_RELATIVE_REST * mass
                or first[i] * sums[old, 0] < _FLOAT32_MARGIN * bound * remaining
            ):
                continue
            cost = _distance(points, i, means, old) * sums[old, 0] / remaining
            least_cost, new = _best_cluster(points, i, mass, old, means, sums, clusters.k)
            if least_cost < cost * (1 - _FLOAT64_MARGIN):
                moved += 1
                gain += mass * (cost - least_cost)
                labels[i] = new
                add_point(points, i, -mass, sums, old)
                add_point(points, i, mass, sums, new)
                _set_mean(sums, old, means, clusters.centroids)
                _set_mean(sums, new, means, clusters.centroids)
        if moved == 0:
            break
    return gain


@kernel
def _best_cluster(points, i, mass, old, means, sums, k):  # type: ignore[no-untyped-def]
    """Return the least cost of a point in another cluster than its own, and that cluster."""
    least_cost, best = np.inf, old
    for j in range(k):
        if j != old:
            cost = _distance(points, i, means, j) * (sums[j, 0] / (sums[j, 0] + mass))
            if cost < least_cost:
                least_cost, best = cost, np.int32(j)
    return least_cost, best


@kernel
def _set_mean(sums, j, means, centroids):  # type: ignore[no-untyped-def]
    if sums[j, 0] > 0:
        for t in range(means.shape[1]):
            means[j, t] = sums[j, 1 + t] / sums[j, 0]
            centroids[j, t] = np.float32(means[j, t])


@kernel
def _distance(points, i, means, j):  # type: ignore[no-untyped-def]
    total = 0.0
    for t in range(means.shape[1]):
        difference = np.float64(points[i, t]) - means[j, t]
        total += difference * difference
    return total
