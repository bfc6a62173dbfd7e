"""The descent of vector K-means over many groups in step, each pass shared between threads."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.threads import Check, collected
from palettery.kernels.vector.blocks import BLOCK, FAR, SUM, moments, padded, unrolled, utilities
from palettery.kernels.vector.coordinate_descent import advance, trim

_OVERRELAXED = 1.9
_TASK = 32 * BLOCK
TASKS_PER_GROUP = 256
_RANGE = 1 << 28  # differences of coordinates between two calls of `check`
_PASSES_IN, _PASSES_OUT = 10, 20
# Relative gain of a pass below which a descent has converged.
COARSE, FINE, FINEST = 1e-4, 3e-5, 1e-6

Groups = NDArray[np.intp]


@dataclass(frozen=True)
class Problem:
    """Points (G, N, d), weights (G, N), or (G, 1) where all weigh the same, and who works on them.

    `noise` in [-1, 1] directs the halves of split clusters.
    """

    points: NDArray[np.float32]
    weights: NDArray[np.float32]
    noise: NDArray[np.float64]
    pool: Executor
    threads: int
    check: Check

    @property
    def step(self) -> int:
        """Distance between the weights of two points: zero where one weight serves all."""
        return int(self.weights.shape[1] > 1)

    @property
    def axes(self) -> tuple[int, ...]:
        """What tells the kernels the dimension."""
        return unrolled(self.points.shape[2])

    @property
    def task_size(self) -> int:
        """Points of a task; by the points alone, so that any thread count adds up alike."""
        count: int = self.points.shape[1]
        return max(_TASK, -(-count // (TASKS_PER_GROUP * BLOCK)) * BLOCK)

    @property
    def tasks_per_group(self) -> int:
        """Tasks that one pass over a group takes."""
        count: int = self.points.shape[1]
        return -(-count // self.task_size)

    def repeated(self, times: int) -> "Problem":
        """Every group so many times in a row."""
        points, weights = np.repeat(self.points, times, 0), np.repeat(self.weights, times, 0)
        return replace(self, points=points, weights=weights)

    def in_tasks(self, groups: int, centroids: int, run: Callable[[tuple[int, int]], None]) -> None:
        """Call `run` in threads with ranges of task numbers that together cover the groups.

        `check` is called after each range; `centroids` of a group tell how long one takes.
        """
        tasks = groups * self.tasks_per_group
        costly = groups * self.points[0].size * centroids // _RANGE
        ranges = min(tasks, max(4 * self.threads, costly))
        edges = np.linspace(0, tasks, ranges + 1).astype(int).tolist()
        collected(self.pool.map(run, pairwise(edges)), self.check)


@dataclass
class Fit:
    """Centroids (G, K, d), of which counts (G,) are in use, errors (G,) and passes (G,) so far."""

    centroids: NDArray[np.float32]
    counts: NDArray[np.int64]
    errors: NDArray[np.float64]
    passes: NDArray[np.int32]

    def widened(self, rows: int, counts: NDArray[np.int64]) -> "Fit":
        """A copy with `rows` centroids a group, cut or filled up with empty ones."""
        groups, kept, dimension = self.centroids[:, :rows].shape
        centroids = np.full((groups, rows, dimension), FAR)
        centroids[:, :kept] = self.centroids[:, :rows]
        return Fit(centroids, counts, self.errors.copy(), self.passes)

    def keep_better(self, other: "Fit") -> NDArray[np.bool_]:
        """Take over the groups in which `other` has the smaller error; which those are."""
        better = other.errors < self.errors
        self.centroids[better] = other.centroids[better]
        self.errors[better] = other.errors[better]
        return better

    def every(self, starts: int, start: int) -> "Fit":
        """Of every `starts` consecutive groups number `start`."""
        chosen = slice(start, None, starts)
        centroids, counts = self.centroids[chosen].copy(), self.counts[chosen]
        return Fit(centroids, counts, self.errors[chosen].copy(), self.passes[chosen].copy())


def relax(problem: Problem, fit: Fit, active: Groups, passes: int, tolerance: float) -> None:
    """Over-relaxed Lloyd until a plain step gains less than `tolerance`, or for `passes` passes.

    Shapes: active (A,) group numbers; moves their centroids in `fit`.
    """
    parts = moments_like(problem, fit)
    groups = fit.counts.size
    previous, factors = np.full(groups, np.inf), np.full(groups, _OVERRELAXED)
    split = np.zeros(groups, np.bool_)
    for _ in range(passes):
        collect_moments(problem, fit, active, parts)
        advance(parts, active, fit.counts, factors, problem.noise, fit.centroids, fit.errors, split)
        fit.passes[active] += 1
        stalled = ~split & (previous - fit.errors <= tolerance * fit.errors)
        active = active[~(stalled & (factors == 1))[active]]
        if active.size == 0:
            return
        factors = np.where(stalled, 1, _OVERRELAXED)
        previous = np.where(split, np.inf, fit.errors)


def moments_like(problem: Problem, fit: Fit) -> NDArray[np.float64]:
    """Room for the moments of every task and cluster."""
    groups, rows, dimension = fit.centroids.shape
    return np.empty((groups, problem.tasks_per_group, rows, SUM + dimension))


def collect_moments(problem: Problem, fit: Fit, active: Groups, parts: NDArray[np.float64]) -> None:
    """One pass over the points of the active groups."""

    def run(tasks: tuple[int, int]) -> None:
        moments(
            problem.points, problem.weights, problem.step, fit.centroids, problem.axes, active,
            problem.task_size, tasks, parts,
        )  # fmt: skip

    problem.in_tasks(active.size, fit.centroids.shape[1], run)


def breathe(problem: Problem, fit: Fit, active: Groups, k: int, breaths: int) -> None:
    """Split the worst clusters, descend, drop the least useful, descend; keep what is better.

    Source: breathing k-means (Fritzke 2020), with the passes of a breath bounded.
    """
    extra = np.full(fit.counts.size, min(max(2, k // 16), max(1, k // 2)))
    rows = padded(k + int(extra.max()))
    for _ in range(breaths):
        trial = fit.widened(rows, k + extra)
        relax(problem, trial, active, _PASSES_IN, COARSE)
        _drop_least_useful(problem, trial, active, k)
        trial = trial.widened(padded(k), fit.counts)
        relax(problem, trial, active, _PASSES_OUT, COARSE)
        extra[~fit.keep_better(trial)] //= 2
        active = active[extra[active] > 0]
        if active.size == 0:
            return


def _drop_least_useful(problem: Problem, trial: Fit, active: Groups, k: int) -> None:
    parts = np.empty((trial.counts.size, problem.tasks_per_group, trial.centroids.shape[1]))

    def run(tasks: tuple[int, int]) -> None:
        utilities(
            problem.points, problem.weights, problem.step, trial.centroids, problem.axes, active,
            problem.task_size, tasks, parts,
        )  # fmt: skip

    problem.in_tasks(active.size, trial.centroids.shape[1], run)
    trial.passes[active] += 1
    trim(parts, active, trial.counts, k, trial.centroids)
