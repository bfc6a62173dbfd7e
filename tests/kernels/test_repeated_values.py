"""Small groups with repeated values, on every path, against a dynamic programme over all cuts."""

import numpy as np
import pytest
import torch
from numba import njit
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from palettery.kernels import PaletteSettings, palettize, palettize_rows, reconstruct
from palettery.kernels.float16 import BFLOAT16, FLOAT16
from palettery.kernels.palettize import palettize_on
from palettery.kernels.scalar import palettize as scalar
from palettery.kernels.scalar.dtype_refinement import finite_values
from palettery.kernels.scalar.exact_kmeans import find_centroids
from tests.devices import on_devices
from tests.examples import examples

Doubles = NDArray[np.float64]
NONE = np.empty(0)
ISSUE = [-2.2358, -2.1669, -1.1284, *[0.0] * 8, 0.8826, 0.9053, 1.2374, 1.6945, 1.7532]


def _zeros(rng: np.random.Generator, x: Doubles) -> Doubles:
    return np.where(rng.random(x.size) < rng.uniform(0, 0.6), 0, x)


def _steps(rng: np.random.Generator, x: Doubles) -> Doubles:
    return np.round(x * 2.0 ** rng.integers(0, 8)) / 2.0 ** rng.integers(0, 8)


def _pool(rng: np.random.Generator, x: Doubles) -> Doubles:
    return rng.choice(x[: max(2, int(x.size * rng.uniform(0.3, 1)))], x.size)


def _tails(rng: np.random.Generator, x: Doubles) -> Doubles:
    return np.round(rng.standard_t(2, x.size) * 2.0 ** rng.integers(2, 10)) / 2


def _three(rng: np.random.Generator, x: Doubles) -> Doubles:
    return rng.choice([0, 0.5, np.nan], x.size, p=[0.2, 0.3, 0.5])


def _far(rng: np.random.Generator, x: Doubles) -> Doubles:
    near = np.where(rng.random(x.size) < 0.5, 0, np.round(x, 2))
    return near + rng.choice([-1000, -1, 1, 1000], x.size)


def _tenths(_: np.random.Generator, x: Doubles) -> Doubles:
    return np.round(x, 1)


DRAWS = [_zeros, _steps, _pool, _tails, _three, _far, _tenths]


def draw(rng: np.random.Generator, n: int) -> Doubles:
    """A group of n values, many of them equal."""
    x = rng.normal(size=n)
    drawn = DRAWS[rng.integers(len(DRAWS))](rng, x)
    return np.where(np.isnan(drawn), x, drawn)


def draw_masses(rng: np.random.Generator, n: int) -> Doubles:
    """Masses of one decade, or of ten."""
    return rng.uniform(0.1, 1, n) if rng.random() < 0.5 else 10 ** rng.uniform(-10, 0, n)


@njit(cache=True)
def least_error(points: Doubles, mass: Doubles, held: Doubles, k: int) -> float:
    """O(k n^2): every cell's error about its mean, or about the number nearest to it that is held.

    Shapes: points ascending (n,), mass (n,), held ascending (m,) or (0,) for all numbers.
    """
    n = points.size
    costs = np.empty((n, n + 1))
    for a in range(n):
        weight = mean = cost = 0.0
        for b in range(a, n):
            away, share = points[b] - mean, mass[b] / (weight + mass[b])
            cost += weight * share * away * away
            weight += mass[b]
            mean += away * share
            off = 0.0
            if held.size:
                at = np.searchsorted(held, mean)
                off = min(
                    abs(held[max(at - 1, 0)] - mean), abs(held[min(at, held.size - 1)] - mean)
                )
            costs[a, b + 1] = cost + weight * off * off
    best = np.full(n + 1, np.inf)
    best[0] = 0.0
    for _ in range(min(k, n)):
        after = np.full(n + 1, np.inf)
        for b in range(1, n + 1):
            for a in range(b):
                after[b] = min(after[b], best[a] + costs[a, b])
        best = after
    return float(best[n])


def distinct(values: Doubles, mass: Doubles) -> tuple[Doubles, Doubles]:
    points, rank = np.unique(values, return_inverse=True)
    return points, np.bincount(rank, mass)


def excess(
    values: Doubles,
    mass: Doubles,
    entries: Doubles,
    k: int,
    *,
    held: Doubles = NONE,
    rounding: float = 1e-15,
) -> float:
    """By which share the error of the nearest entries is above the least; 0 for rounding errors."""
    points, masses = distinct(values, mass)
    found = float((masses * np.abs(points[:, None] - entries).min(1) ** 2).sum())
    nothing = rounding**2 * float((masses * points**2).sum())
    least = least_error(points, masses, held, k)
    return 0.0 if found <= least + nothing else found / max(least, nothing) - 1


def worst_excess(
    path: str, dtype: np.dtype[np.generic], count: int, seed: int, device: str = "cpu"
) -> float:
    """The worst of `count` groups of a path, twenty of a size in one tensor."""
    rng, worst = np.random.default_rng(seed), 0.0
    held = finite_values(dtype) if dtype.itemsize == 2 else NONE
    for _ in range(count // 20):
        n = int(5 * (140 if device == "cpu" and path != "torch" else 40) ** rng.random())
        n_bits = int(rng.choice([2, 3, 4, 6, 8]))
        weight = np.stack([draw(rng, n) for _ in range(20)]).astype(dtype)
        mass = np.stack([draw_masses(rng, n) for _ in range(20)])
        weighted = rng.random() < 0.5
        settings = PaletteSettings(n_bits, group_size=1)
        accelerator = torch.device(device) if path == "torch" else None
        found = palettize_on(accelerator, weight, settings, mass if weighted else None)
        entries = found.lut.astype(np.float64).reshape(20, -1)
        for group in range(20):
            own = mass[group] / mass[group].max() if weighted else np.ones(n)
            values = weight[group].astype(np.float64)
            rounding = 6e-8 if dtype == np.float32 else 1e-15  # of the palette's entries
            above = excess(values, own, entries[group], 2**n_bits, held=held, rounding=rounding)
            worst = max(worst, above)
    return worst


PATHS = [
    ("sorted", np.dtype(np.float32)),
    ("sorted", np.dtype(np.float64)),
    ("sorted", FLOAT16),
    ("sorted", BFLOAT16),
    ("counted", FLOAT16),
    ("counted", BFLOAT16),
    ("pieces", np.dtype(np.float32)),
    ("pieces", FLOAT16),
    ("pieces", BFLOAT16),
]


def take(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make small groups take a path that is for large ones."""
    smallest = 1 if path in ("counted", "pieces") else 1 << 20
    monkeypatch.setattr(scalar, "MIN_COUNTED_ELEMENTS", smallest)
    monkeypatch.setattr(scalar.cpu, "MAX_SORTED_ELEMENTS", 0 if path == "pieces" else 1 << 20)


@pytest.mark.parametrize(("path", "dtype"), PATHS, ids=str)
def test_groups_have_the_least_possible_error_on_every_path(path, dtype, monkeypatch):
    take(path, monkeypatch)
    assert worst_excess(path, dtype, 200, 5) < 1e-9


@pytest.mark.heavy
@pytest.mark.parametrize(("path", "dtype"), PATHS, ids=str)
def test_more_groups_have_it(path, dtype, monkeypatch):
    take(path, monkeypatch)
    # Over FEW_POINTS distinct values, entries that two bytes hold are searched step by step.
    assert worst_excess(path, dtype, examples(600), 6) < (1e-7 if dtype.itemsize == 2 else 1e-9)


@on_devices
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), FLOAT16, np.dtype(np.float64)], ids=str)
def test_groups_have_the_least_possible_error_on_a_device(dtype, device):
    assert worst_excess("torch", dtype, 40, 7, device) < 1e-9


@pytest.mark.heavy
@on_devices
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), FLOAT16, BFLOAT16], ids=str)
def test_more_groups_have_it_on_a_device(dtype, device):
    assert worst_excess("torch", dtype, examples(200), 8, device) < 1e-9


class Rows:
    """A tensor that is read in blocks."""

    def __init__(self, array: NDArray[np.generic]) -> None:
        self.shape, self.dtype, self._array = array.shape, array.dtype, array

    def read(self, first: int, count: int) -> NDArray[np.generic]:
        return self._array[first : first + count]


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16, np.dtype(np.float32)], ids=str)
def test_a_tensor_that_is_streamed_has_the_least_possible_error(dtype, monkeypatch):
    take("pieces", monkeypatch)
    rng = np.random.default_rng(9)
    held = finite_values(dtype) if dtype.itemsize == 2 else NONE
    rounding = 6e-8 if dtype == np.float32 else 1e-15
    for _ in range(40):
        n, k = int(5 * 140 ** rng.random()), 2 ** int(rng.integers(2, 5))
        weight, mass = draw(rng, n).astype(dtype)[:, None], draw_masses(rng, n)[:, None]
        settings = PaletteSettings(int(np.log2(k)))
        found = palettize_rows(Rows(weight), settings, Rows(mass))
        values, entries = weight[:, 0].astype(np.float64), found.lut.astype(np.float64).reshape(-1)
        own = mass[:, 0] / mass.max()
        assert excess(values, own, entries, k, held=held, rounding=rounding) < 1e-9


def test_the_group_that_missed_an_exact_fit_between_zeros() -> None:
    weight = np.array(ISSUE, np.float32)[None]
    error = (reconstruct(palettize(weight, PaletteSettings(3))).astype(np.float64) - weight) ** 2
    assert error.sum() == pytest.approx(2.58e-4, rel=1e-2)


def test_values_far_apart_keep_the_digits_between_their_neighbours() -> None:
    values = np.array([-3e4, 1.0, 1.0 + 2.0**-20, 2.0, 3e4], np.float32)
    found = np.empty(4)
    find_centroids(values, NONE, 4, found, np.empty((3, 6)))
    assert_array_equal(found, [-3e4, 1.0 + 2.0**-21, 2.0, 3e4])


def check_solve(count: int, seed: int) -> float:
    """The worst excess of sorted groups, solved one by one."""
    rng, worst = np.random.default_rng(seed), 0.0
    for _ in range(count):
        n, k = int(5 * 140 ** rng.random()), 2 ** int(rng.integers(1, 9))
        values = np.sort(draw(rng, n).astype(np.float32))
        mass = draw_masses(rng, n) if rng.random() < 0.6 else NONE
        centroids = np.empty(k)
        find_centroids(values, mass, k, centroids, np.empty((3, n + 1)))
        wide = values.astype(np.float64)
        worst = max(worst, excess(wide, mass if mass.size else np.ones(n), centroids, k))
    return worst


def test_hundreds_of_groups_have_the_least_possible_error() -> None:
    assert check_solve(400, 3) < 1e-9


@pytest.mark.heavy
def test_many_groups_have_the_least_possible_error() -> None:
    assert check_solve(examples(3_000), 4) < 1e-9
