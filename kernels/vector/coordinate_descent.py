"""Centroid updates between two assignments of K-means: moves to the means, splits and removals."""

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.vector.point_passes import ERROR, FAR, SUM, WEIGHT, kernel

_OFFSET = 0.3  # distance of the halves of a split, as a share of the cluster's root mean square


@kernel
def move_centroids(task_moments, active, counts, factors, noise, centroids, errors, split):  # type: ignore[no-untyped-def]
    """Move centroids towards, or past, the means of their clusters, and refill empty clusters.

    A centroid moves by `factor` times the distance to the mean. With a factor between 0 and 2 the
    error cannot grow, since a cluster's error about c is that about its mean plus
    weight * |c - mean|^2; near 2 fewer passes are needed, and poor local optima are left. An empty
    cluster takes half of the cluster with the largest error that was not yet split.

    Shapes: task_moments (G, P, K, 2 + d), active (A,), counts (G,) clusters in use, factors (G,),
        noise any length in [-1, 1] -> centroids (G, K, d), errors (G,) before the move, split (G,).
    Source: over-relaxed fixed-point iteration; for the identity, Lloyd 1982.
    """
    for group in active:
        moments = task_moments[group, 0].copy()
        for task in range(
            1, task_moments.shape[1]
        ):  # in a fixed order, whatever the number of threads
            moments += task_moments[group, task]
        errors[group] = moments[:, ERROR].sum()
        split[group] = False
        for j in range(counts[group]):
            if moments[j, WEIGHT] > 0:
                for t in range(centroids.shape[2]):
                    mean = moments[j, SUM + t] / moments[j, WEIGHT]
                    c = np.float64(centroids[group, j, t])
                    centroids[group, j, t] = np.float32(c + factors[group] * (mean - c))
        for j in range(counts[group]):
            if moments[j, WEIGHT] == 0:
                split[group] |= _split_worst(moments, centroids[group], j, noise)


@kernel
def _split_worst(moments, centroids, empty, noise):  # type: ignore[no-untyped-def]
    """Give half of the cluster of largest error to `empty`; return False if all errors are 0."""
    worst = np.argmax(moments[:, ERROR])
    if moments[worst, ERROR] <= 0:
        return False
    rms = np.sqrt(moments[worst, ERROR] / moments[worst, WEIGHT])
    moments[worst, ERROR] = 0
    for t in range(centroids.shape[1]):
        offset = np.float32(_OFFSET * rms * noise[(empty * centroids.shape[1] + t) % noise.size])
        centroids[empty, t] = centroids[worst, t] + offset
        centroids[worst, t] -= offset
    return True


@kernel
def drop_clusters(parts, active, counts, k, centroids):  # type: ignore[no-untyped-def]
    """Drop the clusters of least utility, down to k; neighbours of dropped ones only if necessary.

    Shapes: parts (G, P, K) utilities, active (A,) -> counts (G,), centroids (G, K, d).
    Source: breathing k-means (Fritzke 2020).
    """
    for group in active:
        count = counts[group]
        utility = parts[group, 0, :count].copy()
        for part in range(1, parts.shape[1]):
            utility += parts[group, part, :count]
        dropped = np.zeros(count, np.bool_)
        frozen = np.zeros(count, np.bool_)
        excess = count - k
        for spare_neighbours in (True, False):
            for j in np.argsort(utility):
                if excess > 0 and not dropped[j] and not (spare_neighbours and frozen[j]):
                    dropped[j] = True
                    frozen[_nearest_neighbour(centroids[group], j, dropped)] = True
                    excess -= 1
        row = 0
        for j in range(count):
            if not dropped[j]:
                centroids[group, row] = centroids[group, j]
                row += 1
        centroids[group, k:] = FAR
        counts[group] = k


@kernel
def _nearest_neighbour(centroids: NDArray[np.float32], j: int, dropped: NDArray[np.bool_]) -> int:
    """Return the centroid nearest to centroid j among those not dropped."""
    least, nearest = np.inf, j
    for other in range(dropped.size):
        distance = 0.0
        for t in range(centroids.shape[1]):
            difference = np.float64(centroids[other, t]) - np.float64(centroids[j, t])
            distance += difference * difference
        if other != j and not dropped[other] and distance < least:
            least, nearest = distance, other
    return nearest
