"""Lloyd iterations of vector K-means, over many groups at once, with passes split over threads."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.threads import Check, collect
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

_OVERRELAXED = 1.9
_TASK = 32 * BLOCK
TASKS_PER_GROUP = 256
_RANGE = 1 << 28  # coordinate differences computed between two calls of `check`
_PASSES_IN, _PASSES_OUT = 10, 20
# Relative improvement by a pass below which the iterations have converged.
COARSE, FINE, FINEST = 1e-4, 3e-5, 1e-6

Groups = NDArray[np.intp]


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
    check: Check

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
        return max(_TASK, -(-count // (TASKS_PER_GROUP * BLOCK)) * BLOCK)

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
        """Call `run` in threads with ranges of task numbers that together cover the groups.

        `check` is called after each range. The number of `centroids` of a group determines how long
        a task takes, and so the number of ranges.
        """
        tasks = groups * self.tasks_per_group
        least_ranges = groups * self.points[0].size * centroids // _RANGE
        ranges = min(tasks, max(4 * self.threads, least_ranges))
        edges = np.linspace(0, tasks, ranges + 1).astype(int).tolist()
        collect(self.pool.map(run, pairwise(edges)), self.check)


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
        """Return a copy with only number `start` of every `starts` consecutive groups."""
        chosen = slice(start, None, starts)
        centroids, counts = self.centroids[chosen].copy(), self.counts[chosen]
        return LloydState(centroids, counts, self.errors[chosen].copy(), self.passes[chosen].copy())


def run_lloyd(
    problem: LloydProblem, fit: LloydState, active: Groups, passes: int, tolerance: float
) -> None:
    """Run over-relaxed Lloyd iterations until a plain one gains less than `tolerance`.

    There are at most `passes` iterations. They move the centroids of the active groups.

    Shapes: active (A,) group numbers.
    """
    parts = allocate_moments(problem, fit)
    groups = fit.counts.size
    previous, factors = np.full(groups, np.inf), np.full(groups, _OVERRELAXED)
    split = np.zeros(groups, np.bool_)
    for _ in range(passes):
        collect_moments(problem, fit, active, parts)
        move_centroids(
            parts, active, fit.counts, factors, problem.noise, fit.centroids, fit.errors, split
        )
        fit.passes[active] += 1
        stalled = ~split & (previous - fit.errors <= tolerance * fit.errors)
        active = active[~(stalled & (factors == 1))[active]]
        if active.size == 0:
            return
        factors = np.where(stalled, 1, _OVERRELAXED)
        previous = np.where(split, np.inf, fit.errors)


def allocate_moments(problem: LloydProblem, fit: LloydState) -> NDArray[np.float64]:
    """Return an array for the moments of every task and cluster."""
    groups, rows, dimension = fit.centroids.shape
    return np.empty((groups, problem.tasks_per_group, rows, SUM + dimension))


def collect_moments(
    problem: LloydProblem, fit: LloydState, active: Groups, parts: NDArray[np.float64]
) -> None:
    """Fill the moments of the active groups, in one pass over their points."""

    def run(tasks: tuple[int, int]) -> None:
        accumulate_moments(
            problem.points, problem.weights, problem.step, fit.centroids, problem.axes, active,
            problem.task_size, tasks, parts,
        )  # fmt: skip

    problem.in_tasks(active.size, fit.centroids.shape[1], run)


def breathe(problem: LloydProblem, fit: LloydState, active: Groups, k: int, breaths: int) -> None:
    """Split the worst clusters, iterate, drop the least useful, iterate; keep improvements.

    Source: breathing k-means (Fritzke 2020), with a bounded number of passes per breath.
    """
    extra = np.full(fit.counts.size, min(max(2, k // 16), max(1, k // 2)))
    rows = padded_rows(k + int(extra.max()))
    for _ in range(breaths):
        trial = fit.resize(rows, k + extra)
        run_lloyd(problem, trial, active, _PASSES_IN, COARSE)
        _drop_least_useful(problem, trial, active, k)
        trial = trial.resize(padded_rows(k), fit.counts)
        run_lloyd(problem, trial, active, _PASSES_OUT, COARSE)
        extra[~fit.keep_better(trial)] //= 2
        active = active[extra[active] > 0]
        if active.size == 0:
            return


def _drop_least_useful(problem: LloydProblem, trial: LloydState, active: Groups, k: int) -> None:
    parts = np.empty((trial.counts.size, problem.tasks_per_group, trial.centroids.shape[1]))

    def run(tasks: tuple[int, int]) -> None:
        accumulate_utilities(
            problem.points, problem.weights, problem.step, trial.centroids, problem.axes, active,
            problem.task_size, tasks, parts,
        )  # fmt: skip

    problem.in_tasks(active.size, trial.centroids.shape[1], run)
    trial.passes[active] += 1
    drop_clusters(parts, active, trial.counts, k, trial.centroids)
