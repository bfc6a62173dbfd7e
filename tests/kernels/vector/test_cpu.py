import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from palettery.kernels.vector import cpu
from palettery.kernels.vector.cpu import VectorClusters, cluster
from tests.spanning import spanning

Points = NDArray[np.floating]


def error(points: Points, result: VectorClusters, weights: Points | None = None) -> Points:
    """Weighted sum of squared errors of each group."""
    chosen = np.take_along_axis(result.centroids, result.labels[..., None].astype(np.intp), 1)
    squares = ((points.astype(np.float64) - chosen) ** 2).sum(-1)
    total: Points = (squares if weights is None else squares * weights).sum(-1)
    return total


def optimum(points: Points, k: int, weights: Points) -> float:
    """Least error over all ways to put the points into k clusters."""
    least = np.inf
    for labels in product(range(k), repeat=len(points)):
        total = 0.0
        for j in set(labels):
            mine = np.array(labels) == j
            mean = np.average(points[mine], axis=0, weights=weights[mine])
            total += (weights[mine] * ((points[mine] - mean) ** 2).sum(-1)).sum()
        least = min(least, total)
    return least


def samples(name: str, shape: tuple[int, ...], seed: int = 1) -> Points:
    rng = np.random.default_rng(seed)
    drawn = {
        "normal": lambda: rng.normal(size=shape),
        "student": lambda: rng.standard_t(2, size=shape),
        "uniform": lambda: rng.random(shape),
        "modes": lambda: rng.normal(size=shape) + 1000 * rng.integers(0, 2, (*shape[:-1], 1)),
        "outliers": lambda: rng.normal(size=shape) * np.where(rng.random(shape) < 1e-3, 100, 1),
        "duplicates": lambda: rng.normal(size=shape).round(1),
        "small": lambda: rng.normal(size=shape) * 1e-30,
        "large": lambda: rng.normal(size=shape) * 1e30,
    }[name]()
    return drawn.astype(np.float32)


def test_two_pairs_by_hand() -> None:
    points = np.array([[[0, 0], [0, 2], [10, 0], [10, 2]]], np.float32)
    result = cluster(points, 2, None, seed=0)
    order = np.argsort(result.centroids[0, :, 0])
    assert_array_equal(result.centroids[0, order], [[0, 1], [10, 1]])
    assert_array_equal(np.argsort(order)[result.labels[0]], [0, 0, 1, 1])
    assert result.labels.dtype == np.uint8


def test_sensitivity_pulls_the_mean() -> None:
    points = np.array([[[0, 0], [4, 0], [100, 0]]], np.float32)
    result = cluster(points, 2, np.array([[3.0, 1.0, 1.0]]), seed=0)
    assert_allclose(sorted(result.centroids[0, :, 0]), [1.0, 100.0], rtol=1e-7)


def test_tiny_sets_come_near_the_optimum() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 7, 2)).astype(np.float32)
    weights = rng.choice([1.0, 2.0, 1e-3], size=(40, 7))
    result = error(points, cluster(points, 2, weights, seed=0), weights)
    least = np.array([optimum(p, 2, w) for p, w in zip(points, weights, strict=True)])
    assert (result >= least * (1 - 1e-5)).all()
    assert (result <= least * 1.1).all()
    assert (result <= least * (1 + 1e-5)).mean() >= 0.9


@given(
    data=arrays(np.float32, (3, 40, 2), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    k=st.sampled_from([1, 2, 4, 16, 64, 256]),
    seed=st.integers(0, 3),
)
@settings(deadline=None, max_examples=30)
def test_every_point_has_its_nearest_centroid(data: Points, k: int, seed: int) -> None:
    result = cluster(data, k, None, seed)
    wide = data.astype(np.float64)
    distances = ((wide[:, :, None] - result.centroids[:, None]) ** 2).sum(-1)
    chosen = np.take_along_axis(distances, result.labels[..., None].astype(np.intp), 2)[..., 0]
    # Labels are those of the float32 centroids just before the last mean was taken.
    spread = wide.max(axis=(1, 2)) - wide.min(axis=(1, 2))
    assert (chosen <= distances.min(-1) + 1e-4 * spread[:, None] ** 2).all()
    assert np.isfinite(result.centroids).all()


@pytest.mark.parametrize("k", [3, 16, 256])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_no_error_with_at_most_k_distinct_points(k: int, dtype: type[np.floating]) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=(k - 1, 3)), np.full((1, 3), 6e-5)]).astype(dtype)
    points = values[rng.integers(0, k, size=(2, 1000))]
    result = cluster(points, k, None, seed=0)
    for group in range(2):
        assert_array_equal(
            result.centroids[group][result.labels[group]].astype(dtype), points[group]
        )


def test_fewer_points_than_clusters() -> None:
    result = cluster(samples("normal", (2, 5, 4)), 16, None, seed=0)
    assert_array_equal(result.labels, [[0, 1, 2, 3, 4]] * 2)
    assert_array_equal(result.centroids[:, 5:], np.repeat(result.centroids[:, 4:5], 11, axis=1))


@pytest.mark.parametrize(
    ("name", "dimension", "weighted"),
    spanning(
        ["normal", "student", "uniform", "modes", "outliers", "duplicates"],
        [2, 4, 8],
        [False, True],
    ),
)
def test_at_most_the_error_of_scikit_learn(name: str, dimension: int, weighted: bool) -> None:
    points = samples(name, (1, 2048, dimension))
    weights = 10.0 ** np.random.default_rng(2).uniform(-12, 0, (1, 2048)) if weighted else None
    result = error(points, cluster(points, 32, weights, seed=0), weights)[0]
    with threadpool_limits(1):
        peer = KMeans(32, n_init=1, random_state=0)
        peer.fit(
            points[0].astype(np.float64), sample_weight=None if weights is None else weights[0]
        )
    assert result <= peer.inertia_ * 1.001


@pytest.mark.parametrize("name", ["small", "large"])
def test_magnitude_does_not_matter(name: str) -> None:
    points = samples(name, (1, 2000, 2))
    unit = samples("normal", (1, 2000, 2))
    scale = 1e-30 if name == "small" else 1e30
    result = error(points / np.float64(scale), _scaled(cluster(points, 16, None, 0), 1 / scale))
    assert_allclose(result, error(unit, cluster(unit, 16, None, 0)), rtol=2e-2)


def _scaled(result: VectorClusters, factor: float) -> VectorClusters:
    return VectorClusters(result.centroids * factor, result.labels, result.iterations)


def test_far_from_the_origin() -> None:
    near = samples("normal", (1, 4000, 4)).astype(np.float64)
    result = cluster(near + 1e9, 16, None, seed=0)
    assert_allclose(error(near + 1e9, result), error(near, cluster(near, 16, None, 0)), rtol=1e-2)


@pytest.mark.parametrize(("count", "k"), [(300, 256), (50_000, 16), (40_000, 64)])
def test_thread_count_does_not_matter(count: int, k: int) -> None:
    points = samples("normal", (2, count, 2))
    alone = cluster(points, k, None, seed=3, threads=1)
    for threads in (2, 5):
        result = cluster(points, k, None, seed=3, threads=threads)
        assert_array_equal(result.labels, alone.labels)
        assert_array_equal(result.centroids, alone.centroids)


def test_groups_do_not_influence_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.concatenate([samples(name, (1, 900, 4)) for name in ("normal", "student")])
    weights = np.random.default_rng(0).random((2, 900))
    together = cluster(points, 16, weights, seed=0)
    monkeypatch.setattr(cpu, "_BATCH_ELEMENTS", 1)
    for group in range(2):
        alone = cluster(points[group : group + 1], 16, weights[group : group + 1], seed=0)
        assert_array_equal(alone.labels[0], together.labels[group])
        assert_array_equal(alone.centroids[0], together.centroids[group])
    assert_array_equal(cluster(points, 16, weights, seed=0).labels, together.labels)


def test_seed_decides() -> None:
    points = samples("uniform", (1, 2000, 8))
    first, again, other = (cluster(points, 16, None, seed) for seed in (1, 1, 2))
    assert_array_equal(first.labels, again.labels)
    assert (first.labels != other.labels).any()


@pytest.mark.heavy
def test_uneven_dimension_beyond_unrolling() -> None:
    points = samples("normal", (1, 600, 40))
    result = cluster(points, 4, None, seed=0)
    alone = ((points - points.mean(axis=1, keepdims=True)) ** 2).sum()
    assert error(points, result)[0] < alone
    assert len(np.unique(result.labels)) == 4


def test_strides_do_not_matter() -> None:
    points = samples("normal", (2, 1000, 4))
    turned = np.ascontiguousarray(points.transpose(2, 1, 0)).transpose(2, 1, 0)
    assert_array_equal(cluster(turned, 16, None, 0).labels, cluster(points, 16, None, 0).labels)


def test_sensitivity_of_zero_counts_for_nothing() -> None:
    points = samples("normal", (1, 500, 2))
    weights = np.zeros((1, 500))
    weights[0, :4] = 1
    result = cluster(points, 4, weights, seed=0)
    assert error(points, result, weights)[0] == pytest.approx(0, abs=1e-12)
    assert np.isfinite(result.centroids).all()
    unweighted = cluster(points, 4, np.zeros((1, 500)), seed=0)
    assert_array_equal(unweighted.labels, cluster(points, 4, None, seed=0).labels)


def test_called_from_many_threads() -> None:
    points = samples("normal", (1, 2000, 2))
    expected = cluster(points, 16, None, seed=0).labels
    ready = threading.Barrier(4)

    def run() -> NDArray[np.uint8]:
        ready.wait()
        return cluster(points, 16, None, seed=0).labels

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(run) for _ in range(4)]:
            assert_array_equal(done.result(), expected)


def test_points_and_sensitivity_are_left_alone() -> None:
    points = samples("normal", (1, 300, 2))
    weights = np.random.default_rng(0).random((1, 300))
    before = points.copy(), weights.copy()
    points.setflags(write=False)
    weights.setflags(write=False)
    cluster(points, 16, weights, seed=0)
    assert_array_equal(points, before[0])
    assert_array_equal(weights, before[1])
