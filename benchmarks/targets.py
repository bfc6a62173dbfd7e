"""How long targets take, and how good choices are: `python -m benchmarks.targets [MODEL]`.

The solver against all combinations on small instances, then on instances as large as models. With
a model: its scores, a first target, and another one, for which no kernel runs.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from palettery.app.allocation.allocate import Allocator
from palettery.app.allocation.candidates import find_candidates
from palettery.app.allocation.scoring import score_model
from palettery.app.allocation.solver import GAP, Item, Solver
from palettery.app.checkpoints.local_files import stored_files
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.settings import read_settings
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.targets import Choices, Target

INSTANCES = 200
GOAL_S = {500: 1.0, 2_000: 10.0, 5_000: 10.0}
SHARES = (0.1, 0.3, 0.5)
BITS = np.array([1, 1.01, 2, 2.02, 3, 3.05, 4, 4.1, 6, 6.3, 8, 16])
ELEMENTS = (384 * 384, 1536 * 384, 768 * 768, 2048 * 512, 30522 * 384)


def instance(count: int, options: int, rng: np.random.Generator) -> list[Item]:
    """Return tensors of real sizes with errors as of palettes: about a quarter for each bit."""
    items = []
    for _ in range(count):
        bits = np.sort(rng.choice(BITS, options, replace=False))
        costs = rng.lognormal(0, 1.5) * 4.0**-bits * rng.uniform(0.9, 1.1, options)
        elements = rng.choice(ELEMENTS) * rng.uniform(0.5, 2)
        items.append(Item(costs, np.floor(elements * bits / 8)))
    return items


def compare_with_all_combinations() -> None:
    """Print how often the solver is as good as the best of all combinations."""
    rng, equal = np.random.default_rng(0), 0
    for _ in range(INSTANCES):
        items = instance(int(rng.integers(1, 9)), int(rng.integers(1, 7)), rng)
        weights, costs = np.zeros(1), np.zeros(1)
        for item in items:
            weights = (weights[:, None] + item.weights).ravel()
            costs = (costs[:, None] + item.costs).ravel()
        limit = float(rng.uniform(weights.min(), weights.max()))
        found = Solver(items).solve(limit)
        best = costs[weights <= limit].min()
        equal += found is not None and found.weight <= limit and found.cost <= best * (1 + GAP)
    print(f"as good as the best of all combinations: {equal} of {INSTANCES}")


def time_solver() -> None:
    """Print time and gap of large instances."""
    rng = np.random.default_rng(0)
    print("tensors  options  share of the size  seconds  processor  goal  gap")
    for count, goal in GOAL_S.items():
        items = instance(count, len(BITS), rng)
        least = sum(float(item.weights.min()) for item in items)
        most = sum(float(item.weights.max()) for item in items)
        for share in SHARES:
            wall, busy = time.perf_counter(), time.process_time()
            found = Solver(items).solve(least + share * (most - least))
            wall, busy = time.perf_counter() - wall, time.process_time() - busy
            gap = found.gap if found else float("nan")
            print(f"{count:7} {len(BITS):8} {share:18} {wall:8.2f} {busy:10.2f} {goal:5} {gap:.1e}")


def time_model(path: Path, sizes: list[int]) -> None:
    """Print times of scores and of targets on a model."""
    limits, model = read_settings().limits, stored_files([path], digests=True)
    checkpoint = read_checkpoint(model.storage, model.files, limits)
    candidates = find_candidates(KMeansPalettizerConfig(), checkpoint, Choices(), limits)
    wall, busy = time.perf_counter(), time.process_time()
    scores = score_model(candidates, checkpoint, model.storage, None, None, lambda *_: None)
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    print(f"scores of {len(scores.tensors)} tensors: {wall:.2f} s ({busy:.2f} s of processor)")
    for size_bytes in sizes:
        wall, busy = time.perf_counter(), time.process_time()
        allocator = Allocator(candidates, checkpoint, None, scores, limits)
        found, _ = allocator.allocate(Target(size_bytes=size_bytes))
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
        share = found.size_bytes / size_bytes
        print(
            f"{size_bytes:,} bytes: {found.size_bytes:,} ({share:.3%}), gap {found.gap:.1e}, "
            f"{wall:.2f} s ({busy:.2f} s of processor)"
        )
    wall, busy = time.perf_counter(), time.process_time()
    curve = allocator.curve()
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    exact = sum(point.exact for point in curve)
    print(f"curve: {len(curve)} points, {exact} exact, {wall:.2f} s ({busy:.2f} s of processor)")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8_550_000, 11_430_000, 16_000_000])
    arguments = parser.parse_args()
    compare_with_all_combinations()
    time_solver()
    if arguments.model is not None:
        time_model(arguments.model, arguments.sizes)


if __name__ == "__main__":
    main()
