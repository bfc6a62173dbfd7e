"""Where the centroids of vector K-means start."""

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.vector.blocks import FAR, kernel


@kernel
def use_distinct(points, k, centroids, labels):  # type: ignore[no-untyped-def]
    """Make the points themselves the centroids, unless more than k of them are distinct.

    Returns whether that was so; unused centroids repeat the last.

    Shapes: points (N, d) -> centroids (k, d), labels (N,).
    """
    count, last = 0, 0
    for i in range(points.shape[0]):
        if count == 0 or not _same(points[i], centroids[last]):
            last = 0
            while last < count and not _same(points[i], centroids[last]):
                last += 1
            if last == k:
                return False
            if last == count:
                centroids[count:] = points[i]
                count += 1
        labels[i] = last
    return True


@kernel
def _same(point, other):  # type: ignore[no-untyped-def]
    for t in range(point.shape[0]):  # noqa: SIM110 - numba compiles no generator
        if point[t] != other[t]:
            return False
    return True


@kernel
def thin(points, weights, step, offset, sample, sample_weights):  # type: ignore[no-untyped-def]
    """A weighted sample that stands for the group: K-means errors on it are unbiased.

    Half of the draws go to points in proportion to their weight, half in proportion to their
    share of the variance, so that rare outliers are in it. Draws are equally spaced along the
    cumulated probability, beginning at `offset` in [0, 1).

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
    half = 0.5 if spread > 0 else 1.0
    cumulated, row = 0.0, 0
    for i in range(count):
        weight = np.float64(weights[i * step])
        expected = half * draws * weight / total
        if spread > 0:
            expected += half * draws * weight * _squared_distance(points[i], mean) / spread
        cumulated += expected
        while row < draws and row + offset < cumulated:
            sample[row] = points[i]
            sample_weights[row] = weight / expected
            row += 1
    sample[row:] = points[0]  # at most one draw, lost to rounding
    sample_weights[row:] = 0


@kernel
def _squared_distance(point: NDArray[np.float32], other: NDArray[np.float64]) -> float:
    total = 0.0
    for t in range(point.shape[0]):
        difference = np.float64(point[t]) - other[t]
        total += difference * difference
    return total


@kernel
def plus_plus(points, weights, step, k, axes, draws, centroids):  # type: ignore[no-untyped-def]
    """Greedy k-means++: each next centroid is the best of several points drawn by their error.

    Shapes: points (M, d), weights (M,) or (1,), draws (k, candidates) in [0, 1) -> centroids
        (4 * n, d), those from k on at FAR.
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
        if total == 0:  # every point of the sample is a centroid: the rest fill up by splitting
            return
        least, kept = np.inf, 0
        for draw in draws[j, : 1 if j == 0 else draws.shape[1]]:
            row = min(np.searchsorted(cumulated, draw * total, "right"), count - 1)
            trial = trials[1 - kept]
            _approach(columns, points[row], axes, errors, j == 0, trial)
            error = 0.0
            for i in range(count):
                error += np.float64(weights[i * step]) * np.float64(trial[i])
            if error < least:
                least, kept = error, 1 - kept
                for t in range(dimensions):
                    centroids[j, t] = points[row, t]
        errors[:] = trials[kept]


@kernel
def _approach(columns, point, axes, errors, first, closer):  # type: ignore[no-untyped-def]
    """Errors once `point` is a centroid too. Shapes: columns (d, M) -> closer (M,)."""
    dimensions = len(axes) if len(axes) > 0 else columns.shape[0]
    for i in range(columns.shape[1]):
        a = np.float32(0)
        for t in range(dimensions):
            u = columns[t, i] - point[t]
            a += u * u
        closer[i] = a if first else min(a, errors[i])
