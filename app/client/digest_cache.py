"""Cache of SHA-256 digests of the user's files, so that a retry need not read 20 GB again."""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path

from platformdirs import user_cache_path

PIECE_BYTES = 4 << 20
MIN_AGE_NS = 2_000_000_000
"""A file modified less than this before it was read may change again within the same tick of the
file system's clock, and look unchanged; its digest is not cached."""
TABLE = (
    "CREATE TABLE IF NOT EXISTS digests"
    " (path TEXT PRIMARY KEY, seen TEXT NOT NULL, sha256 TEXT NOT NULL)"
)


class DigestCache:
    """Digests of files, valid as long as inode, size and times of a file stay the same.

    Without a cache folder they are always computed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or _cache_folder()
        self._part_digests: dict[tuple[Path, int, int], bytes] = {}

    def of(self, path: Path, part_bytes: int, on_bytes: Callable[[int], object]) -> str:
        """Return the SHA-256 of a file, in hex; `on_bytes` is called with the size of each read.

        The digests of its parts are computed along with it, and kept in memory.

        Raises:
            OSError: it cannot be read.
        """
        fingerprint = _fingerprint(path)
        if (cached := self._read_cached(path, fingerprint)) is not None:
            on_bytes(path.stat().st_size)
            return cached
        start_ns = time.time_ns()
        file_hash, parts = sha256(), _PartHasher(part_bytes)
        with ThreadPoolExecutor(1) as executor:
            for piece in pieces(path, 0, None):
                hashing = executor.submit(parts.update, piece)
                file_hash.update(piece)
                hashing.result()
                on_bytes(len(piece))
        self._part_digests |= {(path, *part): digest for part, digest in parts.digests()}
        is_old = path.stat().st_mtime_ns < start_ns - MIN_AGE_NS
        if is_old and _fingerprint(path) == fingerprint:
            statement = "REPLACE INTO digests VALUES (?, ?, ?)"
            self._execute(statement, path, fingerprint, file_hash.hexdigest())
        return file_hash.hexdigest()

    def of_part(self, path: Path, offset: int, size_bytes: int) -> bytes:
        """Return the SHA-256 of a range of a file, from memory for a part of a file just read.

        Raises:
            OSError, EOFError: see `pieces`.
        """
        cached = self._part_digests.get((path, offset, size_bytes))
        if cached is not None:
            return cached
        part_hash = sha256()
        for piece in pieces(path, offset, size_bytes):
            part_hash.update(piece)
        return part_hash.digest()

    def forget(self, paths: Iterable[Path]) -> None:
        """Remove the digests of files from the cache."""
        self._part_digests.clear()
        for path in paths:
            self._execute("DELETE FROM digests WHERE path = ?", path)

    def _read_cached(self, path: Path, fingerprint: str) -> str | None:
        rows = self._execute(
            "SELECT sha256 FROM digests WHERE path = ? AND seen = ?", path, fingerprint
        )
        return str(rows[0][0]) if rows else None

    def _execute(self, statement: str, path: Path, *values: str) -> list[tuple[object, ...]]:
        if self._folder is None:
            return []
        with suppress(OSError, sqlite3.Error):  # a missing cache is no reason to fail
            self._folder.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._folder / "digests.db")) as database, database:
                database.execute(TABLE)
                return database.execute(statement, (str(path.resolve()), *values)).fetchall()
        return []


class _PartHasher:
    """Digests of the parts of a stream, each of `part_bytes` except the last."""

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes, self._num_bytes = part_bytes, 0
        self._hashes = [sha256()]

    def update(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            remaining = self._part_bytes * len(self._hashes) - self._num_bytes
            if not remaining:
                self._hashes.append(sha256())
                continue
            head, rest = rest[:remaining], rest[remaining:]
            self._hashes[-1].update(head)
            self._num_bytes += len(head)

    def digests(self) -> Iterator[tuple[tuple[int, int], bytes]]:
        """Yield ((offset, size), digest) of each part."""
        for number, part_hash in enumerate(self._hashes):
            offset = number * self._part_bytes
            yield (offset, min(self._part_bytes, self._num_bytes - offset)), part_hash.digest()


def _cache_folder() -> Path | None:
    """Return the user's cache folder; None for a user without a home directory."""
    try:
        folder = user_cache_path("palettery")
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


def pieces(path: Path, offset: int, size_bytes: int | None) -> Iterator[bytes]:
    """Yield a range of a file in pieces, up to its end without a size.

    Raises:
        OSError: it cannot be read.
        EOFError: the range exceeds the file.
    """
    with path.open("rb") as file:
        file.seek(offset)
        left = size_bytes
        while piece := file.read(PIECE_BYTES if left is None else min(PIECE_BYTES, left)):
            yield piece
            left = None if left is None else left - len(piece)
    if left:
        raise EOFError


def _fingerprint(path: Path) -> str:
    """Return a text that changes when the file is modified."""
    stat = path.stat()
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
