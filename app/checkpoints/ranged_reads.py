"""Reads of many small ranges of a file with few requests."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

from palettery.app.storage.base import Storage

GAP_BYTES = 64 << 10
"""Maximum distance between the offsets of two ranges that are read with one request."""
WINDOW_BYTES = 1 << 20
"""Maximum size of a request for several ranges, gaps included."""
CONCURRENT_READS = 8
"""Requests at the same time, to hide the latency of a remote store."""


@dataclass(frozen=True, slots=True)
class FileRange:
    """A byte range of a file."""

    offset: int
    size_bytes: int


def read_ranges(storage: Storage, path: str, ranges: Sequence[FileRange]) -> Iterator[bytes]:
    """Yield the bytes of ranges, which must lie within the file and be sorted by offset."""
    with ThreadPoolExecutor(CONCURRENT_READS) as pool:
        contents = pool.map(lambda window: _read_window(storage, path, window), _windows(ranges))
        for window in contents:
            yield from window


def _windows(ranges: Sequence[FileRange]) -> Iterator[Sequence[FileRange]]:
    """Yield the ranges in groups, each of which is read with one request."""
    first = 0
    for number, (left, right) in enumerate(pairwise(ranges), start=1):
        is_distant = right.offset - left.offset > GAP_BYTES
        if is_distant or right.offset - ranges[first].offset > WINDOW_BYTES:
            yield ranges[first:number]
            first = number
    if ranges:
        yield ranges[first:]


def _read_window(storage: Storage, path: str, window: Sequence[FileRange]) -> Sequence[bytes]:
    start, last = window[0].offset, window[-1]
    data = storage.read(path, start, last.offset + last.size_bytes - start)
    return [bytes(data[range_.offset - start :][: range_.size_bytes]) for range_ in window]
