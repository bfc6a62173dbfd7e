"""Writing, reading and decoding packed artifacts, against plain safetensors of the same bytes.

Run as `python -m benchmarks.artifacts`.
"""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks.service import row
from palettery.app.artifacts.files import open_files
from palettery.app.artifacts.reader import Artifact
from palettery.app.artifacts.writer import array_entry, sort_entries, stream
from palettery.app.cli import offline
from palettery.app.compression.job_folder import report_documents, report_path, statistics_path
from palettery.app.compression.statistics import encode_line
from palettery.app.dashboard.files import PLOTLY
from palettery.app.dashboard.report_page import report_page
from palettery.app.storage.open import open_storage
from palettery.schemas.config import w4
from palettery.schemas.statistics import SliceStatistics

TENSORS, SIDE = 32, 2_048
"""256 MB of float16, palettized to four bits."""
ROUNDS = 5
DECODED_GOAL = 500e6
REPORTED = 1_000
PAGE_GOAL_S, PAGE_GOAL_BYTES = 3, 5e6


def main() -> None:
    """Measure, and print each row as soon as it is known."""
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
        _report(folder)


def _write_and_read(folder: Path, packed: Path) -> None:
    arrays, store = load_file(packed), open_storage(folder.as_uri())
    entries = sort_entries(array_entry(name, array) for name, array in arrays.items())
    size = f"{packed.stat().st_size / 1e6:.0f} MB"
    theirs = _best_s(lambda: _save_synced(arrays, folder / "plain.safetensors"))
    ours = _best_s(lambda: store.write("ours.safetensors", stream(entries, {"format": "pt"})))
    row(f"packed, {size} written and synced to disk", f"{ours:.2f} s", ours / theirs, "2x")
    theirs = _best_s(lambda: load_file(packed))
    ours = _best_s(lambda: _read(open_files([packed])))
    row(f"packed, {size} opened, checked and read", f"{ours:.2f} s", ours / theirs, "2x")


def _save_synced(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    """Write a file and sync it to disk, as the service does."""
    save_file(arrays, path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _read(artifact: Artifact) -> None:
    for parts in (artifact.kept_tensors, *artifact.palettes.values()):
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


def _report(folder: Path) -> None:
    """Render the report page of a job with many tensors, from its stored report."""
    rng = np.random.default_rng(0)
    weights = {
        f"layers.{n}.weight": rng.normal(0, 0.02, (64, 64)).astype(np.float32)
        for n in range(REPORTED)
    }
    save_file(weights, folder / "many.safetensors")
    page = folder / "report.html"
    report = offline.compress(
        [folder / "many.safetensors"], w4(), folder / "out", lambda *_: None, report=page
    )
    embedded = re.search(rb'id="statistics">(.*?)</script>', page.read_bytes(), re.DOTALL)
    assert embedded is not None  # noqa: S101 - every page has them
    slices = [SliceStatistics(first_row=0, **each) for each in json.loads(embedded[1])]
    store = open_storage(folder.as_uri())
    store.write(report_path("job"), report.model_dump_json().encode())
    store.write(statistics_path("job"), b"".join(map(encode_line, slices)))
    seconds = _best_s(lambda: b"".join(report_page(report_documents(store, "job"))))
    without_plotly = len(page.read_bytes()) - len(PLOTLY.read_bytes())
    what = f"report of {REPORTED:,} tensors as a page"
    row(what, f"{seconds:.2f} s", seconds / PAGE_GOAL_S, f"{PAGE_GOAL_S} s")
    row(
        "its bytes, without plotly.js",
        f"{without_plotly / 1e6:.2f} MB",
        without_plotly / PAGE_GOAL_BYTES,
        "5 MB",
    )


def _best_s(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest round, the one least disturbed by other processes."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
