"""Lloyd iterations of one small group, in one thread.

Sums are updated incrementally, by the points whose nearest centroid changed in a pass.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.vector.point_passes import find_nearest, kernel

_LANES = 16  # points are padded to a multiple of this, for vector instructions
_OVERRELAXATION = 1.9
MIN_RELATIVE_REST = (
    1e-6  # a sum, relative to a weight subtracted from it, below which it is mostly rounding
)


class Group(NamedTuple):
    """The M points of a group that have a weight above zero, relative to their mean."""

    points: NDArray[np.float32]
    """Points (M, d)."""
    columns: NDArray[np.float32]
    """The same as columns (d, M), padded to a multiple of `_LANES`."""
    masses: NDArray[np.float32]
    """Weights (M,)."""
    squares: float
    """Weighted sum of the squared lengths of the points."""
    center: NDArray[np.float64]
    """Mean of the points before it was subtracted (d,)."""


class Clusters(NamedTuple):
    """Centroids of a group, and the clusters that they had in the last pass."""

    k: int
    centroids: NDArray[np.float32]
    """Centroids (4 * n, d), of which k are in use."""
    codes: NDArray[np.float32]
    """Numbers of the centroids (4 * n,): 0, 1, 2.."""
    distance: NDArray[np.float32]
    """Squared distance of each point to the nearest centroid (M,), padded."""
    nearest: NDArray[np.float32]
    """Number of the nearest centroid (M,), padded."""
    labels: NDArray[np.int32]
    """Cluster of each point (M,), -1 for none."""
    sums: NDArray[np.float64]
    """Weight, and weighted sum of the points, of each cluster (4 * n, 1 + d)."""


@kernel
def load_group(points, weights, step):  # type: ignore[no-untyped-def]
    """Return the `Group` of points (N, d) with weights (N,) and step 1, or (1,) and step 0."""
    count, dimensions = points.shape
    center = np.zeros(dimensions)
    total, num_weighted = 0.0, 0
    for i in range(count):
        weight = np.float64(weights[i * step])
        num_weighted += int(weight > 0)
        total += float(weight)
        for t in range(dimensions):
            center[t] += weight * np.float64(points[i, t])
    for t in range(dimensions):
        center[t] /= total
    centered = np.empty((num_weighted, dimensions), np.float32)
    columns = np.zeros((dimensions, -(-num_weighted // _LANES) * _LANES), np.float32)
    masses = np.empty(num_weighted, np.float32)
    row, squares = 0, 0.0
    for i in range(count):
        weight = np.float64(weights[i * step])
        if weight > 0:
            masses[row] = np.float32(weight)
            for t in range(dimensions):
                x = np.float32(np.float64(points[i, t]) - center[t])
                centered[row, t] = columns[t, row] = x
                squares += weight * np.float64(x) * np.float64(x)
            row += 1
    return Group(centered, columns, masses, squares, center)


@kernel
def allocate_clusters(group, k, rows):  # type: ignore[no-untyped-def]
    """Return `Clusters` with arrays that are not filled yet."""
    dimensions, padded = group.columns.shape
    codes = np.empty(rows, np.float32)
    for j in range(rows):
        codes[j] = np.float32(j)
    return Clusters(
        k,
        np.empty((rows, dimensions), np.float32),
        codes,
        np.zeros(padded, np.float32),
        np.zeros(padded, np.float32),
        np.empty(group.masses.size, np.int32),
        np.empty((rows, 1 + dimensions)),
    )


@kernel
def reset_labels(clusters):  # type: ignore[no-untyped-def]
    """Remove all points from the clusters."""
    for i in range(clusters.labels.size):
        clusters.labels[i] = -1
    for j in range(clusters.sums.shape[0]):
        for t in range(clusters.sums.shape[1]):
            clusters.sums[j, t] = 0.0


@kernel
def copy_clusters(source, target):  # type: ignore[no-untyped-def]
    """Copy centroids, labels and sums."""
    for j in range(source.sums.shape[0]):
        target.sums[j, 0] = source.sums[j, 0]
        for t in range(source.centroids.shape[1]):
            target.centroids[j, t] = source.centroids[j, t]
            target.sums[j, 1 + t] = source.sums[j, 1 + t]
    for i in range(source.labels.size):
        target.labels[i] = source.labels[i]


@kernel
def run_lloyd(group, clusters, axes, passes, tolerance):  # type: ignore[no-untyped-def]
    """Run over-relaxed Lloyd iterations until a plain one gains at most `tolerance`.

    Return the error about the means of the clusters, by sum w |x|^2 - sum |sum w x|^2 / sum w, and
    the number of passes. Labels and sums must match each other, for example after `reset_labels`.
    """
    error, previous, factor = np.inf, np.inf, _OVERRELAXATION
    for number in range(passes):
        find_nearest(
            group.columns, clusters.centroids, clusters.codes, axes, clusters.distance,
            clusters.nearest,
        )  # fmt: skip
        changed = _relabel(
            group.points, group.masses, clusters.nearest, clusters.labels, clusters.sums
        )
        explained, empty = _move_centroids(clusters.sums, clusters.k, factor, clusters.centroids)
        error = group.squares - explained
        if empty and _fill_empty(group, clusters):
            previous = np.inf
            continue
        stalled = changed == 0 or previous - error <= tolerance * error
        if factor == 1.0 and stalled:
            return error, number + 1
        factor = 1.0 if stalled else _OVERRELAXATION
        previous = error
    return error, passes


@kernel
def _relabel(points, masses, index, labels, sums):  # type: ignore[no-untyped-def]
    """Move points to the clusters of their nearest centroids; return how many changed."""
    changed, inexact = 0, False
    for i in range(masses.size):
        old, new = labels[i], np.int32(index[i])
        if old != new:
            changed += 1
            labels[i] = new
            add_point(points, i, masses[i], sums, new)
            if old >= 0:
                add_point(points, i, -masses[i], sums, old)
                inexact |= sums[old, 0] < MIN_RELATIVE_REST * masses[i]
    if inexact:
        sum_clusters(points, masses, labels, sums)
    return changed


@kernel
def sum_clusters(points, masses, labels, sums):  # type: ignore[no-untyped-def]
    """Fill the sums of the clusters from the labels."""
    for j in range(sums.shape[0]):
        for t in range(sums.shape[1]):
            sums[j, t] = 0.0
    for i in range(masses.size):
        add_point(points, i, masses[i], sums, labels[i])


@kernel
def add_point(points, i, weight, sums, j):  # type: ignore[no-untyped-def]
    """Add point i with a weight to the sums of cluster j."""
    sums[j, 0] += weight
    for t in range(points.shape[1]):
        sums[j, 1 + t] += np.float64(weight) * np.float64(points[i, t])


@kernel
def _move_centroids(sums, k, factor, centroids):  # type: ignore[no-untyped-def]
    """Move centroids to the means, or past; return sum |sum w x|^2 / sum w, and if one is empty."""
    total, empty = 0.0, False
    for j in range(k):
        weight = sums[j, 0]
        empty |= weight <= 0
        for t in range(centroids.shape[1]):
            if weight > 0:
                mean = sums[j, 1 + t] / weight
                total += mean * sums[j, 1 + t]
                c = np.float64(centroids[j, t])
                centroids[j, t] = np.float32(c + factor * (mean - c))
    return total, empty


@kernel
def _fill_empty(group, clusters):  # type: ignore[no-untyped-def]
    """Move empty centroids to the points with the largest errors; return whether one moved."""
    moved = False
    for j in range(clusters.k):
        if clusters.sums[j, 0] <= 0:
            largest_error, worst_point = 0.0, 0
            for i in range(group.masses.size):
                error = group.masses[i] * np.float64(clusters.distance[i])
                if error > largest_error:
                    largest_error, worst_point = error, i
            moved |= largest_error > 0
            clusters.distance[worst_point] = 0
            for t in range(group.points.shape[1]):
                clusters.centroids[j, t] = group.points[worst_point, t]
    return moved
