"""Wall time of whole processes."""

import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def process_seconds(command: Sequence[str | Path], runs: int = 5) -> float:
    """Return the median wall time of a process, after one run to warm caches."""
    return statistics.median([_run_s(command) for _ in range(runs + 1)][1:])


def _run_s(command: Sequence[str | Path]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started
