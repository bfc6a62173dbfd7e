"""The kernels against coreai-opt and against copying the same bytes, in one run.

Run as `python -m benchmarks.kernels [--full] [--json FILE]`; `--full` adds the cases that take
coreai-opt minutes. Medians of runs after each side's first call, on all cores.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from coreai_opt.palettization import KMeansPalettizer, KMeansPalettizerConfig
from numpy.typing import NDArray

from palettery.kernels import PaletteSettings, pack, palettize, reconstruct, unpack
from palettery.kernels.metrics import errors

RUNS = 5
FIRST_CALL = (
    "import time; t = time.perf_counter(); import numpy as np;"
    "from palettery.kernels import PaletteSettings, palettize;"
    "palettize(np.ones((64, 64), 'f').cumsum(1), PaletteSettings(4, group_size=16));"
    "print(time.perf_counter() - t)"
)


@dataclass(frozen=True)
class Case:
    """One comparison; `goal` is the intended speedup over the peer."""

    n_bits: int
    group_size: int | None
    fast: bool
    goal: float
    slow_peer: bool = False
    size: int = 2048
    cluster_dim: int = 1

    def __str__(self) -> str:
        where = "per tensor" if self.group_size is None else f"group {self.group_size}"
        how = "fast" if self.fast else "exact"
        how = how if self.cluster_dim == 1 else f"dim {self.cluster_dim}"
        return f"{self.size}x{self.size}, {self.n_bits} bit, {where}, {how}"


CASES = (
    Case(4, 16, fast=False, goal=400),
    Case(4, 16, fast=True, goal=20),
    Case(4, None, fast=False, goal=1000, slow_peer=True),
    Case(4, None, fast=True, goal=10),
    Case(8, 16, fast=False, goal=500, slow_peer=True),
    Case(8, 16, fast=True, goal=40),
    Case(8, None, fast=False, goal=3000, slow_peer=True),
    Case(8, None, fast=True, goal=8),
    Case(4, None, fast=False, goal=100, slow_peer=True, size=1024, cluster_dim=2),
    Case(8, None, fast=False, goal=60, slow_peer=True, size=1024, cluster_dim=4),
)


def main() -> None:
    """Print the tables; write them as JSON where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="also what takes the peer minutes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    compared = _against_peer(full=options.full)
    _half_precision()
    limits = _against_memory() | {"first call, warm disk cache, s": _first_call()}
    for name, value in limits.items():
        print(f"| {name} | {value:.3g} |")
    if options.json:
        options.json.write_text(json.dumps({"cases": compared, "limits": limits}, indent=2))


def _against_peer(*, full: bool) -> list[dict[str, object]]:
    print("| case | ours, ms | coreai-opt, ms | faster | goal | error, ours / theirs |")
    print("| --- | --- | --- | --- | --- | --- |")
    rows: list[dict[str, object]] = []
    _peer(Case(1, None, fast=True, goal=0), np.ones((64, 64), np.float32))  # compiles its kmeans1d
    for case in CASES:
        rng = np.random.default_rng(0)
        weight = rng.normal(0, 0.02, (case.size, case.size)).astype(np.float32)
        settings = PaletteSettings(
            case.n_bits,
            group_size=case.group_size,
            cluster_dim=case.cluster_dim,
            rounding_precision=4 if case.fast else None,
        )
        palette = palettize(weight, settings)
        ours = _median(lambda weight=weight, settings=settings: palettize(weight, settings))  # type: ignore[misc]
        row: dict[str, object] = asdict(case) | {"ours_ms": 1e3 * ours}
        text = f"| {case} | {1e3 * ours:.1f} |"
        if full or not case.slow_peer:
            dense, theirs = _peer(case, weight)
            error = float(((dense.astype(np.float64) - weight) ** 2).sum())
            row |= {
                "peer_ms": 1e3 * theirs,
                "faster": theirs / ours,
                "error_ratio": palette.metrics.sse / error if palette.metrics else None,
            }
            text += f" {1e3 * theirs:.0f} | {theirs / ours:.0f}x | {case.goal:.0f}x |"
            text += f" {row['error_ratio']:.6f} |"
        print(text, flush=True)
        rows.append(row)
    return rows


def _peer(case: Case, weight: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Palettize a Linear with coreai-opt; return its weight and the seconds taken."""
    granularity: dict[str, object] = {"type": "per_tensor"}
    if case.group_size is not None:
        granularity = {"type": "per_grouped_channel", "group_size": case.group_size, "axis": 0}
    spec = {"n_bits": case.n_bits, "granularity": granularity, "cluster_dim": case.cluster_dim}
    module = {"op_state_spec": {"weight": spec}, "enable_fast_kmeans_mode": case.fast}
    config = KMeansPalettizerConfig.from_dict(
        {"kmeans_palettization_config": {"global_config": module}}
    )
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    assert isinstance(config, KMeansPalettizerConfig)  # noqa: S101 - for mypy
    palettizer = KMeansPalettizer(torch.nn.Sequential(layer).eval(), config)
    started = time.perf_counter()
    prepared = palettizer.prepare((torch.zeros(1, weight.shape[1]),))
    seconds = time.perf_counter() - started
    palettized = prepared.get_submodule("0")
    assert isinstance(palettized, torch.nn.Linear)  # noqa: S101 - for mypy
    return palettized.weight.detach().numpy(), seconds


def _against_memory() -> dict[str, float]:
    """Time of a 256 MB tensor against a copy of it, and rates of packing and lookup."""
    weight = np.random.default_rng(0).normal(0, 0.02, (8192, 8192)).astype(np.float32)
    other = np.empty_like(weight)
    copy_s = _median(lambda: np.copyto(other, weight))
    settings = PaletteSettings(4, group_size=16)
    palette = palettize(weight, settings)
    ours = _median(lambda: palettize(weight, settings), runs=3)
    packed = pack(palette.indices, 4)
    count = palette.indices.size
    return {
        "256 MB, 4 bit, group 16, exact, s": ours,
        "times np.copyto of it (goal 8)": ours / copy_s,
        "reconstruct, times np.copyto": _median(lambda: reconstruct(palette)) / copy_s,
        "pack 4 bit, GB/s": count / 1e9 / _median(lambda: pack(palette.indices, 4)),
        "unpack 4 bit, GB/s": count / 1e9 / _median(lambda: unpack(packed, 4, weight.shape)),
    }


def _half_precision() -> None:
    """Rates for float16 and bfloat16 weights, on one thread and on two."""
    print("| 4096x4096, 4 bit, million weights a second | 1 thread | 2 threads |")
    print("| --- | --- | --- |")
    drawn = np.random.default_rng(0).normal(0, 0.02, (4096, 4096)).astype(np.float32)
    for dtype in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)):
        weight = drawn.astype(dtype)
        for group_size, decimals in product((16, None), (4, None)):
            settings = PaletteSettings(4, group_size=group_size, rounding_precision=decimals)
            palette = palettize(weight, settings)
            where = "per tensor" if group_size is None else f"group {group_size}"
            name = f"{dtype}, {where}, {'fast' if decimals else 'exact'}"
            _print_rates(name, partial(palettize, weight, settings, None, "cpu"))
        _print_rates(f"{dtype}, errors", partial(errors, weight, reconstruct(palette)))


def _print_rates(name: str, work: Callable[[int], object]) -> None:
    rates = [4096 * 4096 / 1e6 / _median(partial(work, threads)) for threads in (1, 2)]
    print(f"| {name} | {rates[0]:.0f} | {rates[1]:.0f} |", flush=True)


def _first_call() -> float:
    """Seconds from the start of Python's imports to the first palette, in a new process."""
    command = [sys.executable, "-c", FIRST_CALL]
    runs = [subprocess.run(command, check=True, capture_output=True) for _ in range(3)]
    return min(float(run.stdout) for run in runs)


def _median(work: Callable[[], object], runs: int = RUNS) -> float:
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
