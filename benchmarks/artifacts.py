"""Packed artifacts: written, read and decoded, beside plain safetensors of the same bytes.

Run as `python -m benchmarks.artifacts`.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from app import offline
from app.artifacts.files import open_files
from app.artifacts.reader import Artifact
from app.artifacts.writer import arranged, array_entry, stream
from app.storage import open_storage
from benchmarks.service import row
from schemas.config import w4

TENSORS, SIDE = 32, 2_048
"""256 MB of float16, four bits of which are kept."""
ROUNDS = 5
DECODED_GOAL = 500e6


def main() -> None:
    """Measure, and print each row as it is known."""
    print("| what | measured | ratio | goal |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="palettery-bench-") as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        weights = {
            f"layers.{n}.weight": rng.normal(0, 0.02, (SIDE, SIDE)).astype(np.float16)
            for n in range(TENSORS)
        }
        save_file(weights, folder / "model.safetensors")
        packed = folder / "packed.safetensors"
        offline.compress([folder / "model.safetensors"], w4(), packed, lambda *_: None)
        _write_and_read(folder, packed)
        _decode(packed)


def _write_and_read(folder: Path, packed: Path) -> None:
    arrays, store = load_file(packed), open_storage(folder.as_uri())
    entries = arranged(array_entry(name, array) for name, array in arrays.items())
    size = f"{packed.stat().st_size / 1e6:.0f} MB"
    theirs = _best_s(lambda: save_file(arrays, folder / "plain.safetensors"))
    ours = _best_s(lambda: store.write("ours.safetensors", stream(entries, {"format": "pt"})))
    row(f"packed, {size} written and synced to disk", f"{ours:.2f} s", ours / theirs, "2x")
    theirs = _best_s(lambda: load_file(packed))
    ours = _best_s(lambda: _read(open_files([packed])))
    row(f"packed, {size} opened, checked and read", f"{ours:.2f} s", ours / theirs, "2x")


def _read(artifact: Artifact) -> None:
    for parts in (artifact.kept, *artifact.palettes.values()):
        for stored in parts.values():
            artifact.array(stored)


def _decode(packed: Path) -> None:
    artifact = open_files([packed])
    size_bytes = sum(map(artifact.dense_bytes, artifact.weights))

    def decode() -> None:
        for name in artifact.weights:
            for _ in artifact.blocks(name):
                pass

    rate = size_bytes / _best_s(decode)
    row("decoded, of dense output", f"{rate / 1e6:.0f} MB/s", rate / DECODED_GOAL, "500 MB/s")


def _best_s(run: Callable[[], object]) -> float:
    """Seconds of the fastest round: the others waited for something else."""
    found = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return min(found)


if __name__ == "__main__":
    main()
