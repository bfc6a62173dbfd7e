"""Small pieces of a file that lie far apart, read with few requests."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

from palettery.app.storage.base import Storage

GAP_BYTES = 64 << 10
"""Pieces nearer to each other than this are read at once."""
WINDOW_BYTES = 1 << 20
"""Most bytes of pieces, and of what lies between them, that are read at once."""
CONCURRENT_READS = 8
"""Windows read at the same time, which matters where the store is far away."""


@dataclass(frozen=True, slots=True)
class FileRange:
    """A range of a file."""

    offset: int
    size_bytes: int


def read_ranges(storage: Storage, path: str, pieces: Sequence[FileRange]) -> Iterator[bytes]:
    """The bytes of pieces that lie within the file, in the order of their offsets."""
    with ThreadPoolExecutor(CONCURRENT_READS) as pool:
        read = pool.map(lambda window: _read_window(storage, path, window), _windows(pieces))
        for window in read:
            yield from window


def _windows(pieces: Sequence[FileRange]) -> Iterator[Sequence[FileRange]]:
    """Neighbours that are worth reading at once."""
    first = 0
    for number, (left, right) in enumerate(pairwise(pieces), start=1):
        apart = right.offset - left.offset > GAP_BYTES
        if apart or right.offset - pieces[first].offset > WINDOW_BYTES:
            yield pieces[first:number]
            first = number
    if pieces:
        yield pieces[first:]


def _read_window(storage: Storage, path: str, window: Sequence[FileRange]) -> Sequence[bytes]:
    start, last = window[0].offset, window[-1]
    data = storage.read(path, start, last.offset + last.size_bytes - start)
    return [bytes(data[piece.offset - start :][: piece.size_bytes]) for piece in window]
