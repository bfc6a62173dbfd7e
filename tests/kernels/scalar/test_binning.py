"""Large float32 groups that crowd into small parts of their range, in bins and in blocks."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from palettery.kernels import PaletteSettings, pack, palettize, palettize_rows
from palettery.kernels import streaming as by_rows
from palettery.kernels.scalar import binning, cpu, large_groups
from tests.examples import examples

Singles = NDArray[np.float32]
NO_MASS = np.empty(0)


def _far_from_zero(rng: np.random.Generator, n: int) -> Singles:
    return (1000 + rng.normal(size=n) * 10 ** rng.uniform(-2, 0)).astype(np.float32)


def _two_modes(rng: np.random.Generator, n: int) -> Singles:
    spread = rng.normal(size=n) * 10 ** rng.uniform(-2, 0)
    return (rng.choice([1000, -1000, 1], n) + spread).astype(np.float32)


def _near_levels(rng: np.random.Generator, n: int) -> Singles:
    levels = rng.integers(-200, 200, 7) / 100
    return (rng.choice(levels, n) + rng.normal(size=n) * 10 ** rng.uniform(-6, -3)).astype(
        np.float32
    )


def _pairs_and_a_cloud(rng: np.random.Generator, n: int) -> Singles:
    low = 10 ** rng.uniform(-6, 3, 20)
    levels = np.concatenate([low, low * (1 + 10 ** rng.uniform(-5, -2, 20))])
    noise = np.where(rng.random(n) < 0.3, 1e-6 * rng.normal(size=n), 0)
    return (rng.choice(levels, n) * (1 + noise)).astype(np.float32)


def _mostly_zeros(rng: np.random.Generator, n: int) -> Singles:
    return np.where(rng.random(n) < 0.6, 0, rng.normal(size=n)).astype(np.float32)


def _outliers(rng: np.random.Generator, n: int) -> Singles:
    far = rng.choice([1e6, 1.0001e6, -3e5], n)
    return np.where(rng.random(n) < 1e-3, far, rng.normal(size=n)).astype(np.float32)


DRAWS = [_far_from_zero, _two_modes, _near_levels, _pairs_and_a_cloud, _mostly_zeros, _outliers]


def error(values: Singles, mass: NDArray[np.float64] | None, n_bits: int) -> float:
    found = palettize(values[:, None], PaletteSettings(n_bits), _column(mass))
    lut = found.lut.astype(np.float64).reshape(-1)
    wide = values.astype(np.float64)
    nearest = lut[np.searchsorted((lut[1:] + lut[:-1]) / 2, wide)]
    return float(((1 if mass is None else mass) * (wide - nearest) ** 2).sum())


def _column(mass: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    return None if mass is None else mass[:, None]


def worst_share(draw, count: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """By which share binned groups are above sorted ones at worst."""
    rng, worst = np.random.default_rng(seed), 0.0
    for _ in range(count):
        values = draw(rng, int(rng.integers(15_000, 60_000)))
        mass = 10 ** rng.uniform(-4, 0, values.size) if rng.random() < 0.5 else None
        n_bits = int(rng.choice([1, 2, 3, 4, 6, 8]))
        monkeypatch.setattr(cpu, "MAX_SORTED_ELEMENTS", 1 << 20)
        least = error(values, mass, n_bits)
        monkeypatch.setattr(cpu, "MAX_SORTED_ELEMENTS", 0)
        nothing = 6e-8**2 * float(
            ((1 if mass is None else mass) * np.square(values, dtype=float)).sum()
        )
        worst = max(worst, error(values, mass, n_bits) / (least + nothing) - 1)
    return worst


@pytest.mark.parametrize("draw", DRAWS)
def test_bins_are_as_good_as_sorting(draw, monkeypatch):
    assert worst_share(draw, 8, 4, monkeypatch) < 1e-6


@pytest.mark.heavy
@pytest.mark.parametrize("draw", DRAWS)
def test_bins_are_as_good_as_sorting_many_times(draw, monkeypatch):
    assert worst_share(draw, examples(25), 2, monkeypatch) < 1e-5


@dataclass
class Rows:
    """A tensor that is read in blocks, and where its passes began."""

    array: Singles
    passes: list[int] = field(default_factory=list)

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype

    def read(self, first, count):
        if first == 0:
            self.passes.append(first)
        return self.array[first : first + count]


@pytest.mark.parametrize(
    ("draw", "passes"),
    [
        (lambda rng, n: rng.normal(size=n).round(2), 1),
        (lambda rng, n: rng.normal(size=n), 2),
        (lambda rng, n: rng.choice([1, 1000], n) + rng.normal(size=n) / 10, 3),
    ],
    ids=["few values", "normal", "two modes"],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_give_what_the_whole_gives_in_as_few_passes_as_it_takes(
    draw, passes, weighted, monkeypatch
):
    monkeypatch.setattr(cpu, "MAX_SORTED_ELEMENTS", 4096)
    monkeypatch.setattr(large_groups, "PIECE_ELEMENTS", 1500)
    monkeypatch.setattr(by_rows, "BLOCK_ELEMENTS", 7000)
    rng = np.random.default_rng(3)
    weight = draw(rng, 60_000).astype(np.float32).reshape(600, 100)
    mass = rng.random(weight.shape) if weighted else None
    source, settings = Rows(weight), PaletteSettings(4)
    found = palettize_rows(source, settings, None if mass is None else Rows(mass), threads=2)
    assert len(source.passes) == passes
    whole = palettize(weight, settings, mass, threads=1)
    assert_array_equal(found.lut, whole.lut, strict=True)
    assert_array_equal(np.concatenate(list(found.packed())), pack(whole.indices, 4))


def test_every_bin_of_any_mass_has_a_place_however_small_its_share_is() -> None:
    mass, width = np.full(2000, 1e-200), np.full(2000, 1e-80)
    mass[-1] = width[-1] = 1.0
    first, _ = binning._split_bins(
        binning._companding_measure(mass, width), 1 << 10, np.full(2000, 16)
    )
    assert (np.diff(first) >= 1).all()
