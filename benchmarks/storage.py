"""Our local storage against that of obstore: `python -m benchmarks.storage`.

Reads are of a file in the page cache, in ranges of one size; writes are of pieces of 1 MiB from an
async stream, synced. The two sides take turns; figures are medians, ratios those of the turns.
"""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import obstore
from obstore.store import LocalStore

from palettery.app.storage.base import CHUNK_BYTES, Storage
from palettery.app.storage.open import open_storage

FILE_BYTES, PIECE_BYTES, SMALL_READS, TURNS = 1 << 30, 1 << 20, 1_000, 5
RANGES = {"64 MiB": 64 << 20, "8 MiB": 8 << 20, "64 KiB": 64 << 10}


def read_ours(storage: Storage, size_bytes: int, count: int) -> None:
    """Read the file in ranges, through `Storage`."""
    for number in range(count):
        storage.read("file", number * size_bytes, size_bytes)


def read_theirs(store: LocalStore, size_bytes: int, count: int) -> None:
    """Read the file in ranges, through obstore."""
    for number in range(count):
        memoryview(obstore.get_range(store, "file", start=number * size_bytes, length=size_bytes))


async def _pieces() -> AsyncIterator[bytes]:
    piece = os.urandom(PIECE_BYTES)
    for _ in range(FILE_BYTES // PIECE_BYTES):
        yield piece


def write_ours(storage: Storage) -> None:
    """Write the stream, through `Storage`."""
    asyncio.run(storage.write_stream("ours", _pieces()))


def write_theirs(store: LocalStore, folder: Path) -> None:
    """Write the stream through obstore, then sync as `Storage` does."""

    async def put() -> None:
        await obstore.put_async(
            store, "theirs", _pieces(), chunk_size=CHUNK_BYTES, max_concurrency=2
        )

    asyncio.run(put())
    for path, flags in ((folder / "theirs", os.O_RDWR), (folder, os.O_RDONLY)):
        descriptor = os.open(path, flags)
        os.fsync(descriptor)
        os.close(descriptor)


def _compare(what: str, theirs: Callable[[], None], ours: Callable[[], None]) -> None:
    turns = [(_seconds(theirs), _seconds(ours)) for _ in range(TURNS)]
    before, after = (statistics.median(side) for side in zip(*turns, strict=True))
    ratio = statistics.median(one / other for one, other in turns)
    print(f"{what}: obstore {before:.3f} s, ours {after:.3f} s, {ratio:.1f} times as fast")


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        storage, store = open_storage(folder.as_uri()), LocalStore(prefix=folder)
        storage.write("file", (os.urandom(PIECE_BYTES) for _ in range(FILE_BYTES // PIECE_BYTES)))
        for label, size in RANGES.items():
            count = min(FILE_BYTES // size, SMALL_READS)
            _compare(
                f"{count} reads of {label}",
                lambda size=size, count=count: read_theirs(store, size, count),  # type: ignore[misc]
                lambda size=size, count=count: read_ours(storage, size, count),  # type: ignore[misc]
            )
        _compare(
            "a write of 1 GiB", lambda: write_theirs(store, folder), lambda: write_ours(storage)
        )


if __name__ == "__main__":
    main()
