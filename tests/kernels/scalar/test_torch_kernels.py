"""The torch path of scalar palettes against the CPU path, on the CPU and where there is a GPU."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from palettery.kernels.scalar.assign import assign as assign_cpu
from palettery.kernels.scalar.assign import cell_thresholds
from palettery.kernels.scalar.exact_kmeans import find_centroids
from palettery.kernels.scalar.torch_kernels import assign, cluster
from tests.devices import on_devices
from tests.spanning import every_value

Doubles = NDArray[np.float64]
NAMES = [
    "normal", "laplace", "student", "uniform", "modes", "outliers", "rounded", "half", "small",
    "large", "constant", "zero", "few",
]  # fmt: skip


def sample(name: str, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    drawn = {
        "normal": lambda: rng.normal(size=count),
        "laplace": lambda: rng.laplace(size=count),
        "student": lambda: rng.standard_t(2, size=count),
        "uniform": lambda: rng.random(count),
        "modes": lambda: rng.normal(size=count) + 1000 * rng.integers(0, 2, count),
        "outliers": lambda: rng.normal(size=count) * np.where(rng.random(count) < 1e-3, 100, 1),
        "rounded": lambda: rng.normal(size=count).round(2),
        "half": lambda: rng.normal(size=count).astype(np.float16),
        "small": lambda: rng.normal(size=count) * 1e-30,
        "large": lambda: rng.normal(size=count) * 1e30,
        "constant": lambda: np.full(count, 3.0),
        "zero": lambda: np.zeros(count),
        "few": lambda: rng.integers(0, 10, count),
    }[name]()
    return drawn.astype(np.float32)


def error(values: NDArray[np.float32], mass: Doubles, centroids: Doubles) -> float:
    """Weighted squared error in units of the largest value."""
    unit = max(float(np.abs(values).max()), 1e-300)
    wide, centroids = values / np.float64(unit), centroids / unit
    cells = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, wide)
    return float((mass * (wide - centroids[cells]) ** 2).sum())


@on_devices
@pytest.mark.parametrize(
    ("name", "weighted", "size"),
    every_value(NAMES, [False, True], [(3, 4), (50, 4), (3000, 16), (1500, 64)]),
)
def test_same_error_as_the_cpu_path(
    name: str, weighted: bool, size: tuple[int, int], device: str
) -> None:
    count, k = size
    rng = np.random.default_rng(0)
    values = np.stack([sample(name, count, rng) for _ in range(2)])
    mass = 10.0 ** rng.uniform(-12, 0, values.shape) if weighted else np.ones(values.shape)
    given = torch.from_numpy(mass).to(device) if weighted else None
    result = cluster(torch.from_numpy(values).to(device), given, k).cpu().numpy()
    assert (np.diff(result) >= 0).all()
    for group in range(2):
        order = np.argsort(values[group], kind="stable")
        masses = mass[group][order] / mass[group].max() if weighted else np.empty(0)
        expected = np.empty(k)
        find_centroids(values[group][order], masses, k, expected, np.empty((3, len(order) + 1)))
        ours, peer = (error(values[group], mass[group], c) for c in (result[group], expected))
        assert ours <= peer * (1 + 1e-6) + 1e-24


def test_256_entries() -> None:
    values = sample("laplace", 600, np.random.default_rng(0))[None]
    result = cluster(torch.from_numpy(values), None, 256).numpy()[0]
    expected = np.empty(256)
    find_centroids(
        np.sort(values[0]), np.empty(0), 256, expected, np.empty((3, values.shape[1] + 1))
    )
    ones = np.ones(600)
    assert error(values[0], ones, result) <= error(values[0], ones, expected) * (1 + 1e-5)


def test_values_without_mass_count_for_nothing() -> None:
    values = torch.tensor([[0.0, 1.0, 2.0, 50.0, 100.0]])
    mass = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])
    assert_array_equal(cluster(values, mass, 4).numpy(), [[0, 1, 2, 2]])
    assert_array_equal(
        cluster(values, torch.zeros_like(mass), 2).numpy(), cluster(values, None, 2).numpy()
    )


def test_by_hand() -> None:
    values = torch.tensor([[1.0, 10.0, 2.0, 11.0, 12.0]])
    assert_array_equal(cluster(values, None, 2).numpy(), [[1.5, 11.0]])


def test_assignment_is_that_of_the_cpu_path() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 5000)).astype(np.float16).astype(np.float32)
    lut = np.sort(rng.normal(size=(2, 16)).astype(np.float16), axis=1).astype(np.float32)
    values[:, :15] = (lut[:, 1:] + lut[:, :-1]) / 2  # ties go to the upper entry
    result = assign(torch.from_numpy(values), torch.from_numpy(lut)).numpy()
    expected = np.empty(values.shape, np.uint8)
    for group in range(2):
        assign_cpu(values[group], cell_thresholds(lut[group]), expected[group])
    assert_array_equal(result, expected, strict=True)
