"""The torch path of vector palettes against the CPU path, on the CPU and where there is a GPU."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from palettery.kernels.vector import torch_kernels as device_path
from palettery.kernels.vector.cpu import cluster as cluster_cpu
from palettery.kernels.vector.torch_kernels import cluster
from tests.devices import on_devices


def error(
    points: NDArray[np.floating],
    weights: NDArray[np.floating],
    centroids: NDArray[np.float64],
    labels: NDArray[np.uint8],
) -> NDArray[np.float64]:
    chosen = np.take_along_axis(centroids, labels[..., None].astype(np.intp), 1)
    total: NDArray[np.float64] = (weights * ((points - chosen) ** 2).sum(-1)).sum(-1)
    return total


@on_devices
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "k"), [("normal", 16), ("student", 16), ("normal", 40)])
def test_error_near_that_of_the_cpu_path(name: str, k: int, weighted: bool, device: str) -> None:
    rng = np.random.default_rng(0)
    shape = (2, 1000, 2)
    points = rng.normal(size=shape) if name == "normal" else rng.standard_t(2, size=shape)
    points = points.astype(np.float32)
    weights = 10 ** rng.uniform(-12, 0, shape[:2]) if weighted else np.ones(shape[:2])
    given = torch.from_numpy(weights).to(device) if weighted else None
    result = cluster(torch.from_numpy(points).to(device), k, given, seed=0)
    ours = error(points, weights, result.centroids.cpu().numpy(), result.labels.cpu().numpy())
    peer = cluster_cpu(points, k, weights if weighted else None, seed=0)
    assert (ours <= 1.04 * error(points, weights, peer.centroids, peer.labels)).all()


@on_devices
def test_separate_blobs_are_found_exactly(device: str) -> None:
    rng = np.random.default_rng(0)
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1]), np.float32).reshape(3, -1).T
    points = (100 * corners[rng.integers(0, 8, (3, 500))] + rng.random((3, 500, 3))).astype("f4")
    result = cluster(torch.from_numpy(points).to(device), 8, None, seed=0)
    ones = np.ones(points.shape[:2])
    peer = cluster_cpu(points, 8, None, seed=0)
    np.testing.assert_allclose(
        error(points, ones, result.centroids.cpu().numpy(), result.labels.cpu().numpy()),
        error(points, ones, peer.centroids, peer.labels),
        rtol=1e-6,
    )


@on_devices
@pytest.mark.parametrize("k", [4, 64])
def test_no_error_with_at_most_k_distinct_points(k: int, device: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(k - 1, 4)).astype(np.float32)
    points = values[rng.integers(0, k - 1, (2, 700))]
    result = cluster(torch.from_numpy(points).to(device), k, None, seed=0)
    centroids, labels = result.centroids.cpu().numpy(), result.labels.cpu().numpy()
    assert np.isfinite(centroids).all()
    assert error(points, np.ones((2, 700)), centroids, labels).max() < 1e-12


def test_large_groups_start_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).normal(size=(1, 4000, 2)).astype(np.float32)
    monkeypatch.setattr(device_path, "SAMPLE_SIZE", 500)
    monkeypatch.setattr(device_path, "_MAX_DISTANCES", 1 << 12)
    result = cluster(torch.from_numpy(points), 16, None, seed=0)
    peer = cluster_cpu(points, 16, None, seed=0)
    ones = np.ones((1, 4000))
    ours = error(points, ones, result.centroids.numpy(), result.labels.numpy())
    assert ours[0] <= 1.04 * error(points, ones, peer.centroids, peer.labels)[0]


@on_devices
def test_seed_decides(device: str) -> None:
    points = torch.from_numpy(np.random.default_rng(0).random((1, 400, 4), np.float32)).to(device)
    first, again, other = (cluster(points, 16, None, seed).labels.cpu() for seed in (1, 1, 2))
    assert_array_equal(first, again)
    assert (first != other).any()
