"""Vector K-means of a 1024 x 1024 weight: coreai-opt, scikit-learn and ours in one run.

`python -m benchmarks.vector [OUT.json]` prints a table and writes it as JSON. The peers take
minutes on the larger cases and are timed once; ours is the median of five calls after one warm-up.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from coreai_opt.palettization.kmeans.kmeans_fake_palettize import _KMeansFakePalettize
from coreai_opt.palettization.spec import PalettizationSpec
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from palettery.kernels import PaletteSettings, palettize, reconstruct

SHAPE = (1024, 1024)
CASES = ((4, 2), (6, 2), (8, 4))  # bits, cluster_dim
RUNS = 5


@dataclass(frozen=True)
class Row:
    """Seconds and mean squared errors of one case."""

    n_bits: int
    cluster_dim: int
    coreai_s: float
    sklearn_s: float
    ours_s: float
    coreai_mse: float
    sklearn_mse: float
    ours_mse: float


def main(out: Path | None) -> None:
    """Measure and print every case; write all as JSON."""
    weight = np.random.default_rng(0).normal(0, 0.02, SHAPE).astype(np.float32)
    print("bits dim | coreai-opt   sklearn      ours |  faster than both |  MSE / ours of both")
    rows = []
    for n_bits, cluster_dim in CASES:
        rows.append(row := _measure(weight, n_bits, cluster_dim))
        print(_line(row), flush=True)
    if out is not None:
        out.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def _line(row: Row) -> str:
    seconds = f"{row.coreai_s:8.2f} s {row.sklearn_s:7.2f} s {row.ours_s:7.3f} s"
    speed = f"{row.coreai_s / row.ours_s:7.0f}x {row.sklearn_s / row.ours_s:7.1f}x"
    errors = f"{row.coreai_mse / row.ours_mse:9.4f} {row.sklearn_mse / row.ours_mse:9.4f}"
    return f"{row.n_bits:4} {row.cluster_dim:3} | {seconds} | {speed}  | {errors}"


def _measure(weight: NDArray[np.float32], n_bits: int, cluster_dim: int) -> Row:
    coreai_s, coreai = _timed(lambda: _coreai(weight, n_bits, cluster_dim))
    sklearn_s, sklearn = _timed(lambda: _sklearn(weight, n_bits, cluster_dim))
    settings = PaletteSettings(n_bits=n_bits, cluster_dim=cluster_dim)
    times = [_timed(lambda: palettize(weight, settings))[0] for _ in range(RUNS + 1)]
    ours = reconstruct(palettize(weight, settings))
    return Row(
        n_bits,
        cluster_dim,
        coreai_s,
        sklearn_s,
        statistics.median(times[1:]),
        *(float(np.mean((dense - weight) ** 2)) for dense in (coreai, sklearn, ours)),
    )


def _coreai(weight: NDArray[np.float32], n_bits: int, cluster_dim: int) -> NDArray[np.float32]:
    spec = PalettizationSpec(n_bits=n_bits, cluster_dim=cluster_dim)
    fake = _KMeansFakePalettize(
        **{name: getattr(spec, name) for name in type(spec).model_fields},
        enable_fast_kmeans_mode=False,
    )
    with torch.no_grad():
        dense: NDArray[np.float32] = fake.eval()(torch.from_numpy(weight)).numpy()
    return dense


def _sklearn(weight: NDArray[np.float32], n_bits: int, cluster_dim: int) -> NDArray[np.float32]:
    rows, columns = weight.shape
    points = weight.T.reshape(-1, cluster_dim)
    fit = KMeans(2**n_bits, n_init=1, random_state=0).fit(points)
    dense: NDArray[np.float32] = fit.cluster_centers_[fit.labels_].reshape(columns, rows).T
    return dense


def _timed(run: Callable[[], object]) -> tuple[float, NDArray[np.float32]]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result  # type: ignore[return-value]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
