"""Lloyd iterations of vector K-means, over many groups at once, with passes split over threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.threads import CancellationCheck, collect
from palettery.kernels.vector.coordinate_descent import drop_clusters, move_centroids
from palettery.kernels.vector.point_passes import (
    BLOCK,
    FAR,
    SUM,
    accumulate_moments,
    accumulate_utilities,
    padded_rows,
    unrolled_axes,
)

_OVERRELAXATION = 1.9
_MIN_TASK_POINTS = 32 * BLOCK
MAX_TASKS_PER_GROUP = 256
_MAX_RANGE_WORK = 1 << 28  # coordinate differences computed between two calls of `check_cancelled`
_SPLIT_PASSES, _DROP_PASSES = 10, 20
# Relative improvement by a pass below which the iterations have converged.
COARSE_TOLERANCE, FINE_TOLERANCE, FINEST_TOLERANCE = 1e-4, 3e-5, 1e-6

Groups = NDArray[np.intp]
Piece = TypeVar("Piece")


@dataclass(frozen=True)
class LloydProblem:
    """Weighted points of many groups, and the threads that cluster them."""

    points: NDArray[np.float32]
    """Points (G, N, d)."""
    weights: NDArray[np.float32]
    """Weights (G, N), or (G, 1) if all points have the same."""
    noise: NDArray[np.float64]
    """Random numbers in [-1, 1] for the directions in which clusters are split."""
    pool: Executor
    threads: int
    check_cancelled: CancellationCheck

    @property
    def step(self) -> int:
        """Distance between the weights of two points; zero if there is only one weight."""
        return int(self.weights.shape[1] > 1)

    @property
    def axes(self) -> tuple[int, ...]:
        """Tuple that tells the kernels the dimension, see `unrolled_axes`."""
        return unrolled_axes(self.points.shape[2])

    @property
    def task_size(self) -> int:
        """Number of points of a task; independent of the threads, so that sums are, too."""
        count: int = self.points.shape[1]
        return max(_MIN_TASK_POINTS, -(-count // (MAX_TASKS_PER_GROUP * BLOCK)) * BLOCK)

    @property
    def tasks_per_group(self) -> int:
        """Number of tasks of one pass over a group."""
        count: int = self.points.shape[1]
        return -(-count // self.task_size)

    def repeat(self, times: int) -> "LloydProblem":
        """Return a problem with every group repeated."""
        points, weights = np.repeat(self.points, times, 0), np.repeat(self.weights, times, 0)
        return replace(self, points=points, weights=weights)

    def in_tasks(self, groups: int, centroids: int, run: Callable[[tuple[int, int]], None]) -> None:
        """Call `run` in threads with ranges of task numbers, (first, end), that cover the groups.

        `check_cancelled` is called after each range. The number of `centroids` of a group
        determines how long a task takes, and so the number of ranges.
        """
        tasks = groups * self.tasks_per_group
        least_ranges = groups * self.points[0].size * centroids // _MAX_RANGE_WORK
        ranges = min(tasks, max(4 * self.threads, least_ranges))
        edges = np.linspace(0, tasks, ranges + 1).astype(int).tolist()
        self.run_all(run, list(pairwise(edges)))

    def run_all(self, run: Callable[[Piece], None], pieces: Sequence[Piece]) -> None:
        """Call `run` for all pieces, in threads if there are several; then `check_cancelled`."""
        run_each = self.pool.map if len(pieces) > 1 and self.threads > 1 else map
        collect(run_each(run, pieces), self.check_cancelled)


@dataclass
class LloydState:
    """Centroids of many groups during the iterations."""

    centroids: NDArray[np.float32]
    """Centroids (G, K, d)."""
    counts: NDArray[np.int64]
    """Number of centroids in use, (G,)."""
    errors: NDArray[np.float64]
    """Squared errors before the last move, (G,)."""
    passes: NDArray[np.int32]
    """Number of passes so far, (G,)."""

    def resize(self, rows: int, counts: NDArray[np.int64]) -> "LloydState":
        """Return a copy with `rows` centroids per group, truncated or padded with empty ones."""
        groups, shared, dimension = self.centroids[:, :rows].shape
        centroids = np.full((groups, rows, dimension), FAR)
        centroids[:, :shared] = self.centroids[:, :rows]
        return LloydState(centroids, counts, self.errors.copy(), self.passes)

    def keep_better(self, other: "LloydState") -> NDArray[np.bool_]:
        """Copy the groups in which `other` has the smaller error; return which they are."""
        better = other.errors < self.errors
        self.centroids[better] = other.centroids[better]
        self.errors[better] = other.errors[better]
        return better

    def select_start(self, starts: int, start: int) -> "LloydState":
        """Return a copy with only number `start` of the `starts` repetitions of each group."""
        chosen = slice(start, None, starts)
        centroids, counts = self.centroids[chosen].copy(), self.counts[chosen]
        return LloydState(centroids, counts, self.errors[chosen].copy(), self.passes[chosen].copy())


def run_lloyd(
    problem: LloydProblem, state: LloydState, active: Groups, passes: int, tolerance: float
) -> None:
    """Run over-relaxed Lloyd iterations until a plain one gains less than `tolerance`.

    There are at most `passes` iterations. They move the centroids of the active groups.

    Shapes: active (A,) group numbers.
    """
    parts = allocate_moments(problem, state)
    groups = state.counts.size
    previous, factors = np.full(groups, np.inf), np.full(groups, _OVERRELAXATION)
    split = np.zeros(groups, np.bool_)
    for _ in range(passes):
        collect_moments(problem, state, active, parts)
        move_centroids(
            parts,
            active,
            state.counts,
            factors,
            problem.noise,
            state.centroids,
            state.errors,
            split,
        )
        state.passes[active] += 1
        stalled = ~split & (previous - state.errors <= tolerance * state.errors)
        active = active[~(stalled & (factors == 1))[active]]
        if active.size == 0:
            return
        factors = np.where(stalled, 1, _OVERRELAXATION)
        previous = np.where(split, np.inf, state.errors)


def allocate_moments(problem: LloydProblem, state: LloydState) -> NDArray[np.float64]:
    """Return an empty array for the moments of every task and cluster."""
    groups, rows, dimension = state.centroids.shape
    return np.empty((groups, problem.tasks_per_group, rows, SUM + dimension))


def collect_moments(
    problem: LloydProblem, state: LloydState, active: Groups, parts: NDArray[np.float64]
) -> None:
    """Fill the moments of the active groups, in one pass over their points."""

    def run(tasks: tuple[int, int]) -> None:
        accumulate_moments(
            problem.points, problem.weights, problem.step, state.centroids, problem.axes, active,
            problem.task_size, tasks, parts,
        )  # fmt: skip

    problem.in_tasks(active.size, state.centroids.shape[1], run)


def breathe(problem: LloydProblem, state: LloydState, active: Groups, k: int, breaths: int) -> None:
    """Split the worst clusters, iterate, drop the least useful, iterate; keep improvements.

    Source: breathing k-means (Fritzke 2020), with a bounded number of passes per breath.
    """
    extra = np.full(state.counts.size, min(max(2, k // 16), max(1, k // 2)))
    rows = padded_rows(k + int(extra.max()))
    for _ in range(breaths):
        trial = state.resize(rows, k + extra)
        run_lloyd(problem, trial, active, _SPLIT_PASSES, COARSE_TOLERANCE)
        _drop_least_useful(problem, trial, active, k)
        trial = trial.resize(padded_rows(k), state.counts)
        run_lloyd(problem, trial, active, _DROP_PASSES, COARSE_TOLERANCE)
        extra[~state.keep_better(trial)] //= 2
        active = active[extra[active] > 0]
        if active.size == 0:
            return


def _drop_least_useful(problem: LloydProblem, state: LloydState, active: Groups, k: int) -> None:
    parts = np.empty((state.counts.size, problem.tasks_per_group, state.centroids.shape[1]))

    def run(tasks: tuple[int, int]) -> None:
        accumulate_utilities(
            problem.points, problem.weights, problem.step, state.centroids, problem.axes, active,
            problem.task_size, tasks, parts,
        )  # fmt: skip

    problem.in_tasks(active.size, state.centroids.shape[1], run)
    state.passes[active] += 1
    drop_clusters(parts, active, state.counts, k, state.centroids)
