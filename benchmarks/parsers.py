"""Time to read hostile files, against honest ones of the same size.

`python -m benchmarks.parsers [KILOBYTES]` prints, for each parser and attack, the seconds at one,
two and four times the size, the growth of time per byte, and the ratio to an honest file (goal: 3).
"""

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks import attacks
from benchmarks.attacks import Build
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.errors import BadInput
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import StoredFile

KILOBYTES = 500
SIZES = (1, 2, 4)
GOAL = 3.0

PARSERS: Mapping[str, tuple[Build, Mapping[str, Build]]] = {
    "legacy": (attacks.honest_legacy, attacks.LEGACY),
    "safetensors": (attacks.honest_safetensors, attacks.SAFETENSORS),
    "zip": (attacks.honest_zip, attacks.ZIP),
    "index": (attacks.honest_index, attacks.INDEX),
    "graph": (attacks.honest_graph, attacks.GRAPH),
}
"""Parser -> builder of an honest file, and builders of hostile ones."""


def stored(folder: Path, **files: bytes) -> Sequence[StoredFile]:
    """Write the files of an upload into a folder."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [
        StoredFile(name=name, path=name, size_bytes=len(content)) for name, content in files.items()
    ]


def read_seconds(folder: Path, parser: str, content: bytes) -> float:
    """Return the least seconds of three reads; a refusal counts as a read."""
    files = {"model": attacks.honest_safetensors(100)} if parser == "index" else {}
    upload = stored(folder, **files, file=content)
    storage = open_storage(folder.as_uri())

    def once() -> float:
        started = time.perf_counter()
        with suppress(BadInput):
            read_checkpoint(storage, upload, Limits())
        return time.perf_counter() - started

    return min(once() for _ in range(3))


def main() -> None:
    """Measure and print."""
    base = int(sys.argv[1] if len(sys.argv) > 1 else KILOBYTES) << 10
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        for parser, (honest, hostile) in PARSERS.items():
            honest_times = [_measure(Path(name), parser, honest, base * n) for n in SIZES]
            _print(parser, "honest", honest_times, honest_times)
            for attack, build in hostile.items():
                times = [_measure(Path(name), parser, build, base * n) for n in SIZES]
                worst = max(worst, _print(parser, attack, times, honest_times))
    print(f"worst ratio: {worst:.1f} (goal {GOAL:g})")


def _measure(folder: Path, parser: str, build: Build, size: int) -> tuple[float, int]:
    content = build(size)
    return read_seconds(folder, parser, content), len(content)


def _print(
    parser: str,
    attack: str,
    times: Sequence[tuple[float, int]],
    honest_times: Sequence[tuple[float, int]],
) -> float:
    """Print a row of the table; return the ratio of times per byte at the largest size."""
    seconds = " ".join(f"{taken:7.3f}" for taken, _ in times)
    growth = times[-1][0] / times[0][0] / (times[-1][1] / times[0][1])
    ratio = (times[-1][0] / times[-1][1]) / (honest_times[-1][0] / honest_times[-1][1])
    megabytes = times[-1][1] / 1e6
    print(
        f"{parser:12} {attack:36} {megabytes:6.2f} MB {seconds} s, growth {growth:5.2f}, "
        f"ratio {ratio:6.2f}"
    )
    return ratio


if __name__ == "__main__":
    main()
