"""Seeds of vector K-means, by hand and by their expectation."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from palettery.kernels.vector.point_passes import FAR
from palettery.kernels.vector.seeding import draw_coreset, kmeans_plus_plus, use_distinct

ONE = np.ones(1, np.float32)


@pytest.mark.heavy
def test_distinct_points_are_the_centroids_if_they_are_few():
    points = np.array([[1, 2], [3, 4], [1, 2], [3, 4]], np.float32)
    centroids, labels = np.zeros((3, 2), np.float32), np.zeros(4, np.uint8)
    assert use_distinct(points, 3, centroids, labels)
    assert_array_equal(centroids, [[1, 2], [3, 4], [3, 4]])
    assert_array_equal(labels, [0, 1, 0, 1])
    assert not use_distinct(points, 1, centroids, labels)


def test_coreset_estimates_the_sums_of_all():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4000, 2)).astype(np.float32)
    points[0] = 300
    sample, weights = np.empty((400, 2), np.float32), np.empty(400, np.float32)
    draw_coreset(points, ONE, 0, 0.5, sample, weights)
    assert (sample == 300).all(axis=1).any(), "a rare outlier is among them"
    assert_allclose(weights.sum(), 4000, rtol=0.1)
    assert_allclose(weights @ (sample**2).sum(axis=1), (points**2).sum(), rtol=0.1)


def test_seeds_are_distinct_points_and_the_rest_is_far():
    points = np.repeat(np.array([[0, 0], [10, 0], [0, 10]], np.float32), 5, axis=0)
    centroids = np.empty((8, 2), np.float32)
    draws = np.random.default_rng(0).random((4, 3))
    kmeans_plus_plus(points, ONE, 0, 4, (), draws, centroids)
    assert {*map(tuple, centroids[:3])} == {(0, 0), (10, 0), (0, 10)}
    assert (centroids[3:] == FAR).all()
