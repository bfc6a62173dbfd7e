"""Sparse weights against coreai-opt 0.4, in one run: time, error, and bytes of the artifact.

Run as `python -m benchmarks.sparse [--json FILE]`: 2048 x 2048 float32, 60 % of them zeros, 4 bit,
group 16. Each side's time is the least of its runs, ours on all cores. Processor time is of one
thread, so that a busy machine does not change the ratio.
"""

import argparse
import json
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from coreai_opt.palettization import KMeansPalettizer, KMeansPalettizerConfig
from numpy.typing import NDArray
from safetensors.numpy import save_file

from palettery.app.cli.offline import compress
from palettery.kernels import PaletteSettings, palettize, reconstruct
from palettery.kernels.metrics import errors
from palettery.schemas.config import parse_config

SIZE, ZEROS, N_BITS, GROUP_SIZE, THRESHOLD = 2048, 0.6, 4, 16, 0.5
OUR_RUNS, THEIR_RUNS = 7, 1
SPEC = {
    "n_bits": N_BITS,
    "granularity": {"type": "per_grouped_channel", "group_size": GROUP_SIZE, "axis": 0},
    "sparsity_detection_threshold": THRESHOLD,
}


@dataclass(frozen=True)
class Result:
    """One mode: times of both, and how their errors compare."""

    fast_mode: bool
    ours_s: float
    theirs_s: float
    our_processor_s: float
    their_processor_s: float
    error_ratio: float


def sparse_weight() -> NDArray[np.float32]:
    """Return the weight of every case."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.02, (SIZE, SIZE)).astype(np.float32)
    weight[rng.random(weight.shape) < ZEROS] = 0
    return weight


def compare(weight: NDArray[np.float32], *, fast: bool) -> Result:
    """Palettize with both, and compare."""
    settings = PaletteSettings(
        N_BITS,
        group_size=GROUP_SIZE,
        rounding_precision=4 if fast else None,
        sparsity_threshold=THRESHOLD,
    )
    palette = palettize(weight, settings)
    prepared: list[torch.nn.Module] = []
    theirs = _least_seconds(lambda: prepared.append(_theirs(weight, fast=fast)), THEIR_RUNS)
    ours = _least_seconds(lambda: palettize(weight, settings), OUR_RUNS)
    alone = _least_seconds(lambda: palettize(weight, settings, threads=1), OUR_RUNS)
    dense = prepared[-1].get_submodule("0").weight.detach().numpy()  # type: ignore[operator]
    ratio = errors(weight, reconstruct(palette)).sse / errors(weight, dense).sse
    return Result(fast, ours[0], theirs[0], alone[1], theirs[1], ratio)


def _theirs(weight: NDArray[np.float32], *, fast: bool) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(SIZE, SIZE, bias=False)).eval()
    model[0].weight = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    module = {"op_state_spec": {"weight": SPEC}, "enable_fast_kmeans_mode": fast}
    document = {"kmeans_palettization_config": {"global_config": module}}
    config = KMeansPalettizerConfig.from_dict(document)
    assert isinstance(config, KMeansPalettizerConfig)  # noqa: S101 - for mypy
    prepared: torch.nn.Module = KMeansPalettizer(model, config).prepare((torch.zeros(1, SIZE),))
    return prepared


def _least_seconds(run: Callable[[], object], runs: int) -> tuple[float, float]:
    """Return the least wall time and the least processor time."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter(), time.process_time()
        run()
        seconds.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    wall, processor = zip(*seconds, strict=True)
    return min(wall), min(processor)


def artifact_overhead(weight: NDArray[np.float32]) -> tuple[int, float]:
    """Return the size of the artifact, and its ratio to mask, indices and tables."""
    module = {"op_state_spec": {"weight": SPEC}, "enable_fast_kmeans_mode": False}
    config = parse_config(json.dumps({"global_config": module}))
    with tempfile.TemporaryDirectory() as folder:
        model, packed = Path(folder) / "m.safetensors", Path(folder) / "packed.safetensors"
        save_file({"linear.weight": weight}, model)
        compress([model], config, packed, lambda *_: None)
        size = packed.stat().st_size
    stored = int(np.count_nonzero(weight))
    tables = SIZE // GROUP_SIZE * 2**N_BITS * weight.itemsize
    return size, size / (weight.size / 8 + math.ceil(stored * N_BITS / 8) + tables)


def main() -> None:
    """Run and print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    weight = sparse_weight()
    results = [compare(weight, fast=fast) for fast in (False, True)]
    print("mode    ours, ms  coreai-opt, ms  faster  in processor time  error, ours / theirs")
    for each in results:
        print(
            f"{'fast' if each.fast_mode else 'exact':6}{1e3 * each.ours_s:10.1f}"
            f"{1e3 * each.theirs_s:16.0f}{each.theirs_s / each.ours_s:7.0f}x"
            f"{each.their_processor_s / each.our_processor_s:18.0f}x{each.error_ratio:22.6f}"
        )
    size, ratio = artifact_overhead(weight)
    print(f"artifact: {size:,} bytes, {ratio:.6f} of mask, indices and tables")
    if arguments.json:
        record = {"results": [asdict(each) for each in results], "bytes": size, "ratio": ratio}
        arguments.json.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
