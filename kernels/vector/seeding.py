"""Seeding of vector K-means: samples and initial centroids."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.vector.point_passes import FAR, kernel

MAX_CANDIDATES = 256


@dataclass(frozen=True)
class Seeding:
    """Random seed of a search, and number of candidates for each initial centroid."""

    seed: int | tuple[int, int]
    min_candidates: int = 0
    """Lower bound for the number of candidates for each centroid."""

    def candidates(self, k: int) -> int:
        """Return the number of candidates for each of k centroids: at least 2 + log k."""
        return max(2 + int(np.log(k)), min(self.min_candidates, MAX_CANDIDATES))


@kernel
def use_distinct(points, k, centroids, labels):  # type: ignore[no-untyped-def]
    """Use the distinct points as centroids and return True if there are at most k of them.

    Unused centroids repeat the last point.

    Shapes: points (N, d) -> centroids (k, d), labels (N,).
    """
    num_centroids, row = 0, 0
    for i in range(points.shape[0]):
        if num_centroids == 0 or not _are_equal(points[i], centroids[row]):
            row = 0
            while row < num_centroids and not _are_equal(points[i], centroids[row]):
                row += 1
            if row == k:
                return False
            if row == num_centroids:
                centroids[num_centroids:] = points[i]
                num_centroids += 1
        labels[i] = row
    return True


@kernel
def _are_equal(point, other):  # type: ignore[no-untyped-def]
    for t in range(point.shape[0]):  # noqa: SIM110 - numba compiles no generator
        if point[t] != other[t]:
            return False
    return True


@kernel
def draw_coreset(points, weights, step, offset, sample, sample_weights):  # type: ignore[no-untyped-def]
    """Fill a weighted sample of a group whose K-means errors are unbiased estimates.

    Half of the draws take points in proportion to their weight, the other half in proportion to
    their share of the variance, so that rare outliers are included. Draws are equally spaced along
    the cumulative probability, beginning at `offset` in [0, 1).

    Shapes: points (N, d), weights (N,) or (1,) -> sample (M, d), sample_weights (M,).
    Source: lightweight coresets (Bachem, Lucic, Krause 2018), with systematic sampling.
    """
    count, dimensions = points.shape
    mean = np.zeros(dimensions)
    total = 0.0
    for i in range(count):
        weight = np.float64(weights[i * step])
        total += weight
        for t in range(dimensions):
            mean[t] += weight * np.float64(points[i, t])
    mean /= total
    spread = 0.0
    for i in range(count):
        spread += np.float64(weights[i * step]) * _squared_distance(points[i], mean)
    draws = sample.shape[0]
    share = 0.5 if spread > 0 else 1.0
    cumulated, sample_row = 0.0, 0
    for i in range(count):
        weight = np.float64(weights[i * step])
        expected_draws = share * draws * weight / total
        if spread > 0:
            expected_draws += share * draws * weight * _squared_distance(points[i], mean) / spread
        cumulated += expected_draws
        while sample_row < draws and sample_row + offset < cumulated:
            sample[sample_row] = points[i]
            sample_weights[sample_row] = weight / expected_draws
            sample_row += 1
    sample[sample_row:] = points[0]  # at most one draw, lost to rounding
    sample_weights[sample_row:] = 0


@kernel
def _squared_distance(point: NDArray[np.float32], other: NDArray[np.float64]) -> float:
    total = 0.0
    for t in range(point.shape[0]):
        difference = np.float64(point[t]) - other[t]
        total += difference * difference
    return total


@kernel
def kmeans_plus_plus(points, weights, step, k, axes, draws, centroids):  # type: ignore[no-untyped-def]
    """Fill centroids by greedy k-means++: each is the best of several points drawn by their error.

    Shapes: points (M, d), weights (M,) or (1,), draws (k, candidates) in [0, 1) -> centroids
        (4 * n, d), from row k on FAR.
    Source: Arthur and Vassilvitskii 2007, section 6; Grunau et al. 2023.
    """
    count, dimensions = points.shape
    columns = points.T.copy()
    errors = np.full(count, np.float32(1))
    cumulated = np.empty(count)
    trials = np.empty((2, count), np.float32)
    centroids[:] = FAR
    for j in range(k):
        total = 0.0
        for i in range(count):
            total += np.float64(weights[i * step]) * np.float64(errors[i])
            cumulated[i] = total
        if total == 0:  # all points are centroids already; splits refill the others later
            return
        least_error, best_trial = np.inf, 0
        for draw in draws[j, : 1 if j == 0 else draws.shape[1]]:
            row = min(np.searchsorted(cumulated, draw * total, "right"), count - 1)
            trial = trials[1 - best_trial]
            _update_errors(columns, points[row], axes, errors, j == 0, trial)
            error = 0.0
            for i in range(count):
                error += np.float64(weights[i * step]) * np.float64(trial[i])
            if error < least_error:
                least_error, best_trial = error, 1 - best_trial
                for t in range(dimensions):
                    centroids[j, t] = points[row, t]
        errors[:] = trials[best_trial]


@kernel
def _update_errors(columns, point, axes, errors, first, closer):  # type: ignore[no-untyped-def]
    """Fill the errors with `point` as a new centroid. Shapes: columns (d, M) -> closer (M,)."""
    dimensions = len(axes) if len(axes) > 0 else columns.shape[0]
    for i in range(columns.shape[1]):
        a = np.float32(0)
        for t in range(dimensions):
            u = columns[t, i] - point[t]
            a += u * u
        closer[i] = a if first else min(a, errors[i])
