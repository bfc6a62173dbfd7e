"""Passes over the points of a group, in blocks that fit into the first-level cache.

A block of points is transposed to one row per dimension, so that the inner loop runs over points:
with the dimensions unrolled, LLVM computes eight distances with one AVX2 instruction. Distances are
sums of squared differences, which unlike |c|^2 - 2xc do not cancel for points that are close
together and far from the origin.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

BLOCK = 512
FAR = np.float32(1e15)  # coordinates of centroids without points; others stay below 2**31
UNROLLED_DIMENSIONS = 32

# The flags do not allow reassociation of sums: results must not depend on the vector width.
kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"})

# Columns of the moments of a cluster: weight, sum of squared errors, then the sum of its points.
WEIGHT, ERROR, SUM = 0, 1, 2


def unrolled_axes(dimension: int) -> tuple[int, ...]:
    """Return a tuple whose length tells numba, at compile time, how many dimensions to unroll."""
    return tuple(range(dimension)) if dimension <= UNROLLED_DIMENSIONS else ()


def padded_rows(k: int) -> int:
    """Return the rows needed for k centroids: `find_nearest` processes four at once."""
    return -(-k // 4) * 4


@kernel
def load_block(
    points: NDArray[np.float32], start: int, stop: int, block: NDArray[np.float32]
) -> None:
    """Fill block (d, BLOCK) with points[start:stop]; further columns stay unchanged."""
    for i in range(stop - start):
        for t in range(block.shape[0]):
            block[t, i] = points[start + i, t]


@kernel
def find_nearest(block, centroids, codes, axes, distance, index):  # type: ignore[no-untyped-def]
    """Fill squared distance and index of the centroid nearest to each point; the first of equals.

    Indices are float32 and updated by adding a difference, because LLVM compiles a select between
    two integers, or between a new and the old value, to a slow masked store.

    Shapes: block (d, B), centroids (4 * n, d), codes (4 * n,) = 0, 1, 2.. -> distance and
        index (B,).
    """
    dimensions = len(axes) if len(axes) > 0 else block.shape[0]
    distance[:] = np.float32(3e38)
    index[:] = np.float32(0)
    for j in range(0, centroids.shape[0], 4):
        j0, j1, j2, j3 = codes[j], codes[j + 1], codes[j + 2], codes[j + 3]
        for i in range(distance.size):
            a0 = a1 = a2 = a3 = np.float32(0)
            for t in range(dimensions):
                x = block[t, i]
                u0 = x - centroids[j, t]
                u1 = x - centroids[j + 1, t]
                u2 = x - centroids[j + 2, t]
                u3 = x - centroids[j + 3, t]
                a0 += u0 * u0
                a1 += u1 * u1
                a2 += u2 * u2
                a3 += u3 * u3
            low_index = j1 if a1 < a0 else j0
            high_index = j3 if a3 < a2 else j2
            low, high = min(a0, a1), min(a2, a3)
            best_index = high_index if high < low else low_index
            best = min(low, high)
            old = index[i]
            index[i] = old + (best_index - old if best < distance[i] else np.float32(0))
            distance[i] = min(best, distance[i])


@kernel
def accumulate_moments(points, weights, step, centroids, axes, active, size, tasks, out):  # type: ignore[no-untyped-def]
    """Fill the moments of the clusters in each task: `size` consecutive points of one group.

    Tasks are numbered group by group over the active groups; this call does those from tasks[0] to
    tasks[1]. Sums are float64 in the order of the points, so only the partition affects them.

    Shapes: points (G, N, d), weights (G, N) with step 1 or (G, 1) with step 0, centroids
        (G, 4 * n, d), active (A,) -> out (G, tasks of a group, 4 * n, 2 + d).
    """
    block = np.zeros((points.shape[2], BLOCK), np.float32)
    distance = np.empty(BLOCK, np.float32)
    index = np.empty(BLOCK, np.float32)
    codes = np.arange(centroids.shape[1]).astype(np.float32)
    dimensions = len(axes) if len(axes) > 0 else points.shape[2]
    for task in range(tasks[0], tasks[1]):
        group, part = active[task // out.shape[1]], task % out.shape[1]
        end = min((part + 1) * size, points.shape[1])
        out[group, part] = 0
        for start in range(part * size, end, BLOCK):
            stop = min(start + BLOCK, end)
            load_block(points[group], start, stop, block)
            find_nearest(block, centroids[group], codes, axes, distance, index)
            for i in range(stop - start):
                cluster = out[group, part, np.uint32(index[i])]
                weight = np.float64(weights[group, (start + i) * step])
                cluster[WEIGHT] += weight
                cluster[ERROR] += weight * np.float64(distance[i])
                for t in range(dimensions):
                    cluster[SUM + t] += weight * np.float64(block[t, i])


@kernel
def assign_labels(points, centroids, axes, active, size, tasks, labels):  # type: ignore[no-untyped-def]
    """Fill the index of the centroid nearest to each point, for tasks as in `accumulate_moments`.

    Shapes: points (G, N, d), centroids (G, 4 * n, d), active (A,) -> labels (G, N).
    """
    block = np.zeros((points.shape[2], BLOCK), np.float32)
    distance = np.empty(BLOCK, np.float32)
    index = np.empty(BLOCK, np.float32)
    codes = np.arange(centroids.shape[1]).astype(np.float32)
    parts = -(-points.shape[1] // size)
    for task in range(tasks[0], tasks[1]):
        group, part = active[task // parts], task % parts
        end = min((part + 1) * size, points.shape[1])
        for start in range(part * size, end, BLOCK):
            stop = min(start + BLOCK, end)
            load_block(points[group], start, stop, block)
            find_nearest(block, centroids[group], codes, axes, distance, index)
            for i in range(stop - start):
                labels[group, start + i] = np.uint8(index[i])


@kernel
def accumulate_utilities(points, weights, step, centroids, axes, active, size, tasks, out):  # type: ignore[no-untyped-def]
    """Fill each cluster's utility: the error added if its points moved to their second choice.

    Shapes: as in `accumulate_moments` -> out (G, tasks of a group, 4 * n).
    """
    block = np.zeros((points.shape[2], BLOCK), np.float32)
    first = np.empty(BLOCK, np.float32)
    second = np.empty(BLOCK, np.float32)
    index = np.empty(BLOCK, np.float32)
    codes = np.arange(centroids.shape[1]).astype(np.float32)
    for task in range(tasks[0], tasks[1]):
        group, part = active[task // out.shape[1]], task % out.shape[1]
        end = min((part + 1) * size, points.shape[1])
        out[group, part] = 0
        for start in range(part * size, end, BLOCK):
            stop = min(start + BLOCK, end)
            load_block(points[group], start, stop, block)
            find_nearest(block, centroids[group], codes, axes, first, index)
            find_second_nearest(block, centroids[group], axes, first, second)
            for i in range(stop - start):
                weight = np.float64(weights[group, (start + i) * step])
                out[group, part, np.uint32(index[i])] += weight * np.float64(second[i] - first[i])


@kernel
def find_second_nearest(block, centroids, axes, first, second):  # type: ignore[no-untyped-def]
    """Fill the least and the second least squared distance of each point.

    Shapes: block (d, B), centroids (4 * n, d) -> first, second (B,).
    """
    dimensions = len(axes) if len(axes) > 0 else block.shape[0]
    first[:] = np.float32(3e38)
    second[:] = np.float32(3e38)
    for j in range(centroids.shape[0]):
        for i in range(first.size):
            a = np.float32(0)
            for t in range(dimensions):
                u = block[t, i] - centroids[j, t]
                a += u * u
            second[i] = min(second[i], max(a, first[i]))
            first[i] = min(a, first[i])


@kernel
def squared_error(points, weights, step, centroids, labels):  # type: ignore[no-untyped-def]
    """Return the weighted squared error of a group. Shapes: points (N, d), labels (N,)."""
    total = 0.0
    for i in range(points.shape[0]):
        distance = 0.0
        for t in range(points.shape[1]):
            difference = np.float64(points[i, t]) - centroids[labels[i], t]
            distance += difference * difference
        total += np.float64(weights[i * step]) * distance
    return total
