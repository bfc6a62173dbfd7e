"""Scalar palettes against a plain dynamic programme over exact costs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.testing import assert_array_equal

from palettery.kernels.scalar.exact_kmeans import find_centroids
from tests.spanning import pairwise

NONE = np.empty(0)
DRAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "student": lambda rng, n: rng.standard_t(2, n),
    "uniform": lambda rng, n: rng.random(n),
    "far modes": lambda rng, n: np.where(rng.random(n) < 0.5, -1e5, 1e5) + rng.normal(size=n),
    "outliers": lambda rng, n: rng.normal(size=n) * np.where(rng.random(n) < 1e-2, 100, 1),
    "few values": lambda rng, n: rng.integers(0, 40, n) / 8,
    "constant": lambda _, n: np.full(n, 0.3),
    "zero": lambda _, n: np.zeros(n),
    "halves": lambda rng, n: rng.normal(0, 0.002, n).astype(np.float16),
    "tiny": lambda rng, n: 1e-30 * rng.normal(size=n),
    "huge": lambda rng, n: 1e30 * rng.normal(size=n),
}
REAL_DRAWS = ["normal", "laplace", "student", "uniform", "outliers", "halves"]
REAL_SIZES = [(32768, 16), (32768, 64), (32768, 256), (200_000, 16)]
MASSES = {
    "none": lambda _, n: np.ones(n),
    "even": lambda rng, n: rng.uniform(0.1, 1, n),
    "uneven": lambda rng, n: 10 ** rng.uniform(-12, 0, n),
}


@njit(cache=True)
def least_error(points, mass, k):
    """O(k n^2) dynamic programme; each cell's cost is summed about the mean so far."""
    n = points.size
    best = np.full((k + 1, n + 1), np.inf)
    best[0, 0] = 0
    for a in range(n):
        weight = mean = cost = 0.0
        for b in range(a, n):
            weight += mass[b]
            away = points[b] - mean
            mean += away * (mass[b] / weight)
            cost += mass[b] * away * (points[b] - mean)
            for j in range(k):
                best[j + 1, b + 1] = min(best[j + 1, b + 1], best[j, a] + cost)
    return best[1:, n].min()


def error_of(points, mass, centroids):
    nearest = np.abs(points[:, None] - centroids).min(axis=1)
    return float((mass * nearest**2).sum())


def solved(points, mass, k):
    centroids = np.empty(k)
    find_centroids(points, mass, k, centroids, np.empty((3, points.size + 1)))
    return centroids


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(list(DRAWS)),
    st.sampled_from(list(MASSES)),
    st.integers(1, 400),
    st.sampled_from([2, 3, 4, 8, 16, 64, 256]),
    st.integers(0, 2**32 - 1),
)
def test_error_is_the_least_possible(draw, masses, n, k, seed):
    rng = np.random.default_rng(seed)
    points = np.sort(DRAWS[draw](rng, n).astype(np.float32)).astype(np.float64)
    mass = MASSES[masses](rng, n)
    centroids = solved(points, NONE if masses == "none" else mass, k)
    least = least_error(points, mass, min(k, n))
    nothing = 1e-24 * float((mass * points**2).sum())
    assert error_of(points, mass, centroids) <= least * (1 + 1e-6) + nothing
    assert (np.diff(centroids) >= 0).all()


@pytest.mark.parametrize("draw", ["normal", "student", "uniform", "outliers", "halves"])
@pytest.mark.parametrize("k", [4, 16, 64])
def test_error_is_the_least_possible_for_more_points_than_are_tried_at_first(draw, k):
    points = np.sort(DRAWS[draw](np.random.default_rng(5), 1500).astype(np.float32))
    points = points.astype(np.float64)
    values, counts = np.unique(points, return_counts=True)
    least = least_error(values, counts.astype(np.float64), k)
    result = error_of(points, np.ones(points.size), solved(points, NONE, k))
    assert result <= least * (1 + 1e-6)


@njit(cache=True)
def least_error_of_many(weights, moments, squares, k):
    """The same in O(k n log n): the best start of a last cell rises with its end."""
    n = weights.size - 1
    before = np.full(n + 1, np.inf)
    before[0] = 0
    for _ in range(k):
        after, choice = np.full(n + 1, np.inf), np.zeros(n + 1, np.int64)
        stride = 1 << int(np.ceil(np.log2(n + 2)))
        while stride:
            for b in range(stride - 1, n + 1, 2 * stride):
                low = choice[b - stride] if b >= stride else 0
                high = choice[b + stride] if b + stride <= n else n
                choice[b] = low
                for a in range(low, min(high, b - 1) + 1):
                    total = before[a] - (moments[b] - moments[a]) ** 2 / (weights[b] - weights[a])
                    if total < after[b]:
                        after[b], choice[b] = total, a
            stride //= 2
        before = after
    return squares + before[n]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("draw", "size", "masses"),
    [
        (REAL_DRAWS[draw], REAL_SIZES[size], ("none", "uneven")[masses])
        for draw, size, masses in sorted(pairwise(REAL_DRAWS, REAL_SIZES, "nu"))
    ],
)
def test_error_is_the_least_possible_for_groups_of_real_size(draw, size, masses):
    n, k = size
    rng = np.random.default_rng(11)
    points = np.sort(DRAWS[draw](rng, n).astype(np.float32)).astype(np.float64)
    mass = MASSES[masses](rng, n)
    weights, moments = (np.append(0, np.cumsum(part)) for part in (mass, mass * points))
    least = least_error_of_many(weights, moments, float((mass * points**2).sum()), k)
    result = error_of_many(points, mass, solved(points, NONE if masses == "none" else mass, k))
    assert result <= least * (1 + (1e-6 if k <= 64 else 1e-5))


def error_of_many(points, mass, centroids):
    cells = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, points)
    return float((mass * (points - centroids[cells]) ** 2).sum())


def test_two_pairs():
    assert_array_equal(solved(np.array([0.0, 1.0, 10.0, 11.0]), NONE, 2), [0.5, 10.5])


def test_mass_pulls_a_centroid():
    points, mass = np.array([0.0, 1.0, 10.0]), np.array([3.0, 1.0, 1.0])
    assert_array_equal(solved(points, mass, 2), [0.25, 10.0])


def test_fewer_values_than_entries_are_kept_exactly_and_the_last_repeats():
    points = np.array([0.1, 0.1, 0.2, 0.7, 0.7], np.float32)
    expected = np.array([0.1, 0.2, 0.7, 0.7], np.float32)
    assert_array_equal(solved(points, NONE, 4), expected.astype(np.float64))
