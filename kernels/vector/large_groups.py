"""K-means of large groups: on a sample first, then in threaded passes over all points.

Greedy k-means++ on a weighted sample, over-relaxed Lloyd iterations on the sample and then on all
points, a few rounds of breathing (split the worst clusters, drop the least useful, keep
improvements), and Lloyd iterations to convergence.
"""

from dataclasses import replace

import numpy as np

from palettery.kernels.threads import collect
from palettery.kernels.vector.lloyd import (
    COARSE_TOLERANCE,
    FINE_TOLERANCE,
    FINEST_TOLERANCE,
    LloydProblem,
    LloydState,
    breathe,
    run_lloyd,
)
from palettery.kernels.vector.point_passes import padded_rows
from palettery.kernels.vector.seeding import Seeding, draw_coreset, kmeans_plus_plus

SAMPLE_SIZE = 1 << 14
_FEW_CLUSTERS, _STARTS = 32, 4
# With few points, starts are cheap, and their optima differ more.
_FEW_POINTS, _FEW_CLUSTERS_OF_FEW_POINTS, _STARTS_OF_FEW_POINTS = 1 << 13, 64, 16
_START_PASSES, _TRIAL_PASSES, _EARLY_PASSES, FINAL_PASSES = 100, 4, 40, 300
_BREATHS, _SAMPLE_BREATHS = 4, 3
_COSTLY_DISTANCES = 1 << 22  # distances in one pass over a group above which a pass is costly


def num_starts_large(count: int, k: int) -> int:
    """Return the number of starts that are compared for groups of `count` points."""
    if count <= _FEW_POINTS:
        return _STARTS_OF_FEW_POINTS if k <= _FEW_CLUSTERS_OF_FEW_POINTS else 1
    return _STARTS if k <= _FEW_CLUSTERS else 1


def search_large_groups(problem: LloydProblem, k: int, seeding: Seeding) -> LloydState:
    """Return the centroids of groups of more than k distinct points."""
    groups, count, _ = problem.points.shape
    all_groups = np.arange(groups)
    num_starts = num_starts_large(count, k)
    if num_starts == 1:
        state = _search_sample(_draw_sample(problem, 2 * SAMPLE_SIZE, seeding), k, 1, seeding)
        run_lloyd(problem, state, all_groups, _EARLY_PASSES, COARSE_TOLERANCE)
        breathe(problem, state, all_groups, k, _BREATHS)
    else:
        # Local optima differ more, and a sample has enough points per cluster for breathing.
        sample = _draw_sample(problem, SAMPLE_SIZE, seeding).repeat(num_starts)
        sample_state = _search_sample(sample, k, num_starts, seeding)
        breathe(sample, sample_state, np.arange(groups * num_starts), k, _SAMPLE_BREATHS)
        state = _best_start(problem, sample_state, num_starts)
    run_lloyd(problem, state, all_groups, FINAL_PASSES, final_tolerance(count, k))
    return state


def final_tolerance(count: int, k: int) -> float:
    """Return the relative decrease of the error by a pass below which the last iterations end.

    If a pass is cheap, slow convergence is affordable.
    """
    return FINEST_TOLERANCE if count * k < _COSTLY_DISTANCES else FINE_TOLERANCE


def _draw_sample(problem: LloydProblem, size: int, seeding: Seeding) -> LloydProblem:
    """Return a sample of the problem with nearly the same solution; a small problem as it is."""
    groups, count, dimension = problem.points.shape
    if count <= 2 * size:
        return problem
    points = np.empty((groups, size, dimension), np.float32)
    weights = np.empty((groups, size), np.float32)
    offset = np.random.default_rng(seeding.seed).random()

    def run(group: int) -> None:
        whole = problem.points[group], problem.weights[group], problem.step
        draw_coreset(*whole, offset, points[group], weights[group])

    collect(problem.pool.map(run, range(groups)), problem.check_cancelled)
    return replace(problem, points=points, weights=weights)


def _search_sample(sample: LloydProblem, k: int, num_starts: int, seeding: Seeding) -> LloydState:
    """Seed and iterate on a sample in which every group occurs `num_starts` times."""
    state = _seed_centroids(sample, k, num_starts, seeding)
    run_lloyd(sample, state, np.arange(state.counts.size), _START_PASSES, COARSE_TOLERANCE)
    return LloydState(state.centroids, state.counts, state.errors, np.zeros_like(state.passes))


def _best_start(problem: LloydProblem, starts: LloydState, num_starts: int) -> LloydState:
    """Return the start that is best after a few passes over all points instead of the sample."""
    all_groups = np.arange(problem.points.shape[0])
    best = starts.select_start(num_starts, 0)
    run_lloyd(problem, best, all_groups, _TRIAL_PASSES, COARSE_TOLERANCE)
    for start in range(1, num_starts):
        state = starts.select_start(num_starts, start)
        run_lloyd(problem, state, all_groups, _TRIAL_PASSES, COARSE_TOLERANCE)
        best.keep_better(state)
    return best


def _seed_centroids(problem: LloydProblem, k: int, num_starts: int, seeding: Seeding) -> LloydState:
    """Return the seeds of greedy k-means++.

    The random numbers differ between `num_starts` consecutive groups and then repeat, so that they
    do not depend on the number of preceding groups.
    """
    groups, _, dimension = problem.points.shape
    centroids = np.empty((groups, padded_rows(k), dimension), np.float32)
    draws = np.random.default_rng(seeding.seed).random((num_starts, k, seeding.candidates(k)))

    def run(group: int) -> None:
        whole = problem.points[group], problem.weights[group], problem.step
        kmeans_plus_plus(*whole, k, problem.axes, draws[group % num_starts], centroids[group])

    collect(problem.pool.map(run, range(groups)), problem.check_cancelled)
    return LloydState(
        centroids, np.full(groups, k), np.full(groups, np.inf), np.zeros(groups, np.int32)
    )
