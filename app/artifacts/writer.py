"""Streaming writer of safetensors files; tensors need not be in memory."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from palettery.app.artifacts.dtypes import NAMES
from palettery.app.storage.base import Storage
from palettery.app.storage.file_digest import FileDigest
from palettery.app.storage.verified_reader import store_digests

Chunks: TypeAlias = Iterable[bytes | memoryview]

ALIGNMENT_BYTES = 64
"""Alignment of the data section, so that memory-mapped arrays are aligned."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor to write."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    chunks: Callable[[], Chunks]
    """Return its bytes, row-major; called when they are written."""


def array_entry(name: str, array: NDArray[np.generic]) -> TensorEntry:
    """Return an entry for an array in memory."""
    view = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return TensorEntry(name, NAMES[array.dtype], array.shape, array.nbytes, lambda: (view,))


def sort_entries(entries: Iterable[TensorEntry]) -> list[TensorEntry]:
    """Sort entries by width of the dtype, widest first, then by name, so that all are aligned.

    The same set of entries gives the same order, so the same bytes.
    """
    return sorted(entries, key=lambda entry: (-_alignment(entry), entry.name))


def header(entries: Sequence[TensorEntry], metadata: Mapping[str, str]) -> bytes:
    """Return the start of the file: header length, header, padding.

    Source: https://huggingface.co/docs/safetensors#format.
    """
    fields: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for entry in entries:
        start, end = end, end + entry.size_bytes
        fields[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text


def stream(
    entries: Sequence[TensorEntry], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """Yield the whole file, in chunks."""
    yield header(entries, metadata)
    for entry in entries:
        yield from entry.chunks()


def write_hashed(
    store: Storage,
    path: str,
    chunks: Chunks,
    check: Callable[[], None],
    folder: str | None = None,
) -> str:
    """Write a file, calling `check` before each chunk; return its SHA-256.

    If a folder is given, the digests of the file's blocks are stored there.

    Raises:
        Exception: any that `check` raises; nothing was written.
    """
    digest = FileDigest()

    def hashed() -> Chunks:
        for chunk in chunks:
            check()
            digest.update(chunk)
            yield chunk

    store.write(path, hashed())
    if folder is not None:
        store_digests(store, digest, folder)
    return digest.hexdigest()


def _alignment(entry: TensorEntry) -> int:
    count = int(np.prod(entry.shape, dtype=object))
    return entry.size_bytes // count if count else 0
