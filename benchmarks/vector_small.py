"""Vector palettes of small blocks: our error against coreai-opt's in 300 random cases, and times.

`python -m benchmarks.vector_small [CASES]` prints the ratios of the errors, the processor time of
both, and what a warm call takes for a weight of 64 x 64. The two run in the same process, each on
one thread.
"""

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from coreai_opt.palettization.kmeans.kmeans_fake_palettize import _KMeansFakePalettize
from coreai_opt.palettization.spec import PalettizationSpec
from numpy.typing import NDArray

from palettery.kernels import PaletteSettings, palettize, reconstruct

Floats = NDArray[np.float32]
CASES = 300
SLACK = 1e-3
RUNS = 50
_DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Any]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape),
    "student": lambda rng, shape: rng.standard_t(2, size=shape),
    "uniform": lambda rng, shape: rng.random(shape),
    "modes": lambda rng, shape: rng.normal(size=shape) + 20 * rng.integers(0, 2, shape),
    "outliers": lambda rng, shape: rng.normal(size=shape) * (1 + 29 * (rng.random(shape) < 0.01)),
    "decades": lambda rng, shape: rng.normal(size=shape) * 10.0 ** rng.uniform(-2, 0, shape),
    "rounded": lambda rng, shape: rng.normal(size=shape).round(1),
    "rows": lambda rng, shape: rng.normal(size=shape) * 10.0 ** rng.uniform(-1, 1, (shape[0], 1)),
    "sparse": lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) < 0.4),
    "log-normal": lambda rng, shape: np.exp(1.5 * rng.normal(size=shape)),
}


@dataclass(frozen=True)
class Case:
    """A weight with blocks of 100 to 900 vectors, and its settings."""

    distribution: str
    weight: Floats
    sensitivity: Floats | None
    settings: PaletteSettings


def draw_case(number: int) -> Case:
    """Return one of the random cases; each number is always the same case."""
    rng = np.random.default_rng(10_000 + number)
    dim, vectors = int(rng.choice([2, 3, 4, 6, 8])), int(rng.integers(100, 900))
    groups, axis = int(rng.choice([1, 1, 1, 2, 3, 4])), int(rng.integers(0, 2))
    size = int(rng.choice([1, 2, 4, 8]))
    if axis == 0:
        size *= dim
        shape = (groups * size, vectors * dim // size)
    else:
        shape = (vectors // size * dim, groups * size)
    names = list(_DISTRIBUTIONS)
    distribution = names[number % len(names)]
    sensitivity = [None, rng.random(shape), 10.0 ** rng.uniform(-4, 0, shape)][number % 4 % 3]
    return Case(
        distribution,
        (0.05 * _DISTRIBUTIONS[distribution](rng, shape)).astype(np.float32),
        None if sensitivity is None else sensitivity.astype(np.float32),
        PaletteSettings(
            n_bits=int(rng.choice([1, 2, 3, 4, 6])),
            axis=axis if groups > 1 else 0,
            group_size=size if groups > 1 else None,
            cluster_dim=dim,
        ),
    )


def squared_error(case: Case, dense: Floats) -> float:
    """Return what both minimise: squared errors of vectors, by the sensitivity of each."""
    rows, *rest = case.weight.shape
    dim = case.settings.cluster_dim
    shape = (rows // dim, dim, prod(rest))
    squares = ((case.weight.astype(np.float64) - dense) ** 2).reshape(shape).sum(axis=1)
    if case.sensitivity is None:
        return float(squares.sum())
    return float((squares * case.sensitivity.astype(np.float64).reshape(shape).sum(axis=1)).sum())


def coreai_dense(case: Case) -> Floats:
    """Return the weight as coreai-opt palettizes it."""
    granularity: dict[str, object] = {"type": "per_tensor"}
    if case.settings.group_size is not None:
        granularity = {
            "type": "per_grouped_channel",
            "group_size": case.settings.group_size,
            "axis": case.settings.axis,
        }
    spec = PalettizationSpec(
        n_bits=case.settings.n_bits,
        cluster_dim=case.settings.cluster_dim,
        granularity=granularity,
    )
    fake = _KMeansFakePalettize(
        **{name: getattr(spec, name) for name in type(spec).model_fields},
        enable_fast_kmeans_mode=False,
        sensitivities=None if case.sensitivity is None else torch.from_numpy(case.sensitivity),  # type: ignore[arg-type]
    )
    with torch.no_grad():
        dense: Floats = fake.eval()(torch.from_numpy(case.weight)).numpy()
    return dense


def our_dense(case: Case) -> Floats:
    """Return the weight as we palettize it."""
    dense: Floats = reconstruct(palettize(case.weight, case.settings, case.sensitivity, threads=1))
    return dense


def main(count: int) -> None:
    """Compare all cases, then time small weights."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ratios, seconds = [], np.zeros(2)
    for number in range(count):
        case = draw_case(number)
        our_dense(case)  # compiles
        started = time.process_time()
        ours = squared_error(case, our_dense(case))
        between = time.process_time()
        theirs = squared_error(case, coreai_dense(case))
        seconds += between - started, time.process_time() - between
        ratios.append(ours / theirs if theirs > 0 else 1.0 + (ours > 0))
        if ratios[-1] > 1 + SLACK:
            print(f"case {number}, {case.distribution}: {ratios[-1]:.5f}, {case.settings}")
    over = sum(ratio > 1 + SLACK for ratio in ratios)
    print(f"{over} of {count} cases are worse than coreai-opt by more than {SLACK}")
    print(f"error, ours / theirs: most {max(ratios):.5f}, median {statistics.median(ratios):.5f}")
    print(f"processor seconds: ours {seconds[0]:.2f}, theirs {seconds[1]:.2f}")
    weight = np.random.default_rng(0).normal(0, 0.02, (64, 64)).astype(np.float32)
    for settings in (PaletteSettings(2), PaletteSettings(4), PaletteSettings(2, cluster_dim=2)):
        times = []
        for _ in range(RUNS):
            started = time.perf_counter()
            palettize(weight, settings)
            times.append(1e3 * (time.perf_counter() - started))
        print(
            f"64 x 64, {settings.n_bits} bit, dim {settings.cluster_dim}: "
            f"median {statistics.median(times):.2f} ms, least {min(times):.2f} ms"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else CASES)
