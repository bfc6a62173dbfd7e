"""Small groups of vectors: near coreai-opt's best of five starts, and local optima left behind."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palettery.kernels import PaletteSettings, VectorKMeans, palettize
from palettery.kernels.errors import SettingsError
from palettery.kernels.vector.cpu import cluster
from tests.examples import examples
from tests.kernels.vector.test_cpu import error, optimum, samples

SLACK = 1e-3


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(examples(60)))
def test_error_is_at_most_coreais(number: int) -> None:
    benchmark = pytest.importorskip("benchmarks.vector_small")
    case = benchmark.draw_case(number)
    ours = benchmark.squared_error(case, benchmark.our_dense(case))
    theirs = benchmark.squared_error(case, benchmark.coreai_dense(case))
    assert ours <= theirs * (1 + SLACK)


def test_tiny_sets_are_optimal() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(8, 7, 2)).astype(np.float32)
    weights = rng.choice([1.0, 2.0, 1e-3], size=(8, 7))
    found = error(points, cluster(points, 3, weights, seed=0), weights)
    least = np.array([optimum(p, 3, w) for p, w in zip(points, weights, strict=True)])
    assert (found <= least * (1 + 1e-5)).all()


def test_separate_clusters_are_found() -> None:
    rng = np.random.default_rng(0)
    centers = 100 * rng.normal(size=(5, 48, 4))
    points = centers[:, rng.integers(0, 48, 700)] + rng.normal(size=(5, 700, 4))
    found = error(points, cluster(points.astype(np.float32), 48, None, seed=0))
    assert (found < 700 * 4 * 1.1).all()  # the variance about the centers; a merged pair adds more


def test_no_single_point_can_move() -> None:
    points = samples("normal", (1, 200, 2)).astype(np.float64)
    found = cluster(points, 32, None, seed=0)
    labels, counts = found.labels[0], np.bincount(found.labels[0], minlength=32)
    distances = ((points[0][:, None] - found.centroids[0]) ** 2).sum(-1)
    own = distances[np.arange(200), labels] * counts[labels] / np.maximum(counts[labels] - 1, 1e-9)
    others = distances * counts / (counts + 1)
    others[np.arange(200), labels] = np.inf
    alone = counts[labels] == 1
    assert (alone | (own <= others.min(1) * (1 + 1e-4))).all()


@pytest.mark.parametrize(("count", "k"), [(500, 16), (20_000, 16), (9_000, 128)])
@pytest.mark.parametrize(
    "effort",
    [
        VectorKMeans(n_local_trials=1, n_init=1, max_iter=1, tol=1.0),
        VectorKMeans(),
        VectorKMeans(n_local_trials=20, n_init=6),
        VectorKMeans(n_init=1, max_iter=1000, tol=0.0),
    ],
    ids=["least", "usual", "more starts", "more passes"],
)
def test_effort_is_never_for_the_worse(count: int, k: int, effort: VectorKMeans) -> None:
    points = samples("student", (1, count, 2))
    usual = error(points, cluster(points, k, None, seed=0))
    found = error(points, cluster(points, k, None, seed=0, kmeans=effort))
    assert found <= usual


def test_less_effort_changes_nothing() -> None:
    points = samples("normal", (2, 400, 2))
    effort = VectorKMeans(n_local_trials=1, n_init=1, max_iter=1, tol=1.0)
    usual, found = (cluster(points, 16, None, seed=0, kmeans=each) for each in (None, effort))
    assert_array_equal(found.labels, usual.labels)
    assert_array_equal(found.centroids, usual.centroids)


@pytest.mark.heavy
def test_more_starts_reach_the_kernel_and_help() -> None:
    weight = np.random.default_rng(3).normal(size=(256, 8)).astype(np.float32)
    errors = [
        palettize(
            weight, PaletteSettings(6, cluster_dim=4, vector_kmeans=VectorKMeans(n_init=number))
        ).metrics
        for number in (1, 40)
    ]
    assert errors[1].sse < errors[0].sse


def test_effort_does_not_depend_on_threads() -> None:
    points = samples("normal", (3, 600, 2))
    effort = VectorKMeans(n_init=9, n_local_trials=8)
    alone, together = (
        cluster(points, 32, None, seed=1, threads=threads, kmeans=effort) for threads in (1, 4)
    )
    assert_array_equal(alone.labels, together.labels)
    assert_array_equal(alone.centroids, together.centroids)


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_local_trials", 0), ("n_init", 0), ("max_iter", 0), ("tol", -1.0), ("tol", float("nan"))],
)
def test_bad_effort_is_named(field: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{field} is {value}"):
        VectorKMeans(**{field: value})
