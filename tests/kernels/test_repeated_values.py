"""Small groups with repeated values, on every path, against a dynamic programme over all cuts."""

from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np
import pytest
from numba import njit
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from kernels import PaletteSettings, palettize, palettize_rows, reconstruct
from kernels.scalar import palettize as scalar
from kernels.scalar.points import solve
from tests.devices import on_devices

Doubles = NDArray[np.float64]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
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


DRAWS = [_zeros, _steps, _pool, _tails, _three, _far, lambda rng, x: np.round(x, 1)]


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
                off = min(abs(held[max(at - 1, 0)] - mean), abs(held[min(at, held.size - 1)] - mean))
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


def check_solve(count: int, seed: int) -> float:
    """The worst excess of sorted groups, solved one by one."""
    rng, worst = np.random.default_rng(seed), 0.0
    for _ in range(count):
        n, k = int(5 * 140 ** rng.random()), 2 ** int(rng.integers(1, 9))
        values = np.sort(draw(rng, n).astype(np.float32))
        mass = draw_masses(rng, n) if rng.random() < 0.6 else NONE
        centroids = np.empty(k)
        solve(values, mass, k, centroids, np.empty((3, n + 1)))
        wide = values.astype(np.float64)
        worst = max(worst, excess(wide, mass if mass.size else np.ones(n), centroids, k))
    return worst


def test_a_thousand_groups_have_the_least_possible_error() -> None:
    assert check_solve(1000, 3) < 1e-9


@pytest.mark.heavy
def test_many_groups_have_the_least_possible_error() -> None:
    assert check_solve(20_000, 4) < 1e-9
