"""Time to index a checkpoint, and to read it by range: `python -m benchmarks.reading`.

The index is of 10 GB in sparse shards, since only headers are read. Tensors are read through the
store one at a time, against a plain sequential read of the same file; the page cache is dropped
before each run.
"""

import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import StoredFile

SHARDS, TENSORS, TENSOR_BYTES = 4, 250, 10 << 20
READ_TENSORS, RUNS = 60, 9
PIECE_BYTES = 8 << 20


def write_shard(path: Path, prefix: str, tensors: int, *, holes: bool) -> StoredFile:
    """Write a safetensors file of float32 matrices; with `holes`, its data is sparse."""
    header = {
        f"model.layers.{prefix}.{number}.weight": {
            "dtype": "F32",
            "shape": [1024, TENSOR_BYTES // 4096],
            "data_offsets": [number * TENSOR_BYTES, (number + 1) * TENSOR_BYTES],
        }
        for number in range(tensors)
    }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if holes:
            file.truncate(8 + len(text) + tensors * TENSOR_BYTES)
        else:
            for _ in range(tensors):
                file.write(os.urandom(TENSOR_BYTES))
            file.flush()
            os.fsync(file.fileno())
    return StoredFile(name=path.name, path=path.name, size_bytes=path.stat().st_size)


def index_seconds(folder: Path) -> tuple[float, float]:
    """Return the seconds to index 10 GB, and the growth of the process in MiB."""
    files = [
        write_shard(folder / f"{shard}.safetensors", str(shard), TENSORS, holes=True)
        for shard in range(SHARDS)
    ]
    storage = open_storage(folder.as_uri())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    read_checkpoint(storage, files, Limits())
    seconds = time.perf_counter() - started
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def reading_ratio(folder: Path) -> float:
    """Return the speed of reading tensors by range, relative to a sequential read."""
    path = folder / "real.safetensors"
    file = write_shard(path, "0", READ_TENSORS, holes=False)
    storage = open_storage(folder.as_uri())
    tensors = read_checkpoint(storage, [file], Limits()).tensors

    def by_range() -> None:
        for tensor in tensors:
            storage.read(file.path, tensor.offset, tensor.size_bytes)

    def sequential() -> None:
        buffer = bytearray(PIECE_BYTES)
        with path.open("rb", buffering=0) as raw:
            while raw.readinto(buffer):
                pass

    pairs = [(_cold_s(sequential, path), _cold_s(by_range, path)) for _ in range(RUNS)]
    return statistics.median(plain / ranged for plain, ranged in pairs)


def _cold_s(work: Callable[[], None], path: Path) -> float:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds, grown = index_seconds(folder)
        size = SHARDS * TENSORS * TENSOR_BYTES / 1e9
        print(f"index {size:.0f} GB, {SHARDS * TENSORS:,} tensors: {seconds:.3f} s (goal 1 s)")
        print(f"growth of memory: {grown:.0f} MiB (goal 100 MB)")
        print(f"reading by range, relative to sequential: {reading_ratio(folder):.2f} (goal 0.8)")


if __name__ == "__main__":
    main()
