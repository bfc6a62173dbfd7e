"""Cached SHA-256 digests of the user's files, so that a retry need not read 20 GB again."""

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
    """Digests of files, each valid as long as its file looks unchanged.

    Without a cache folder they are computed each time.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or _cache_folder()
        self._of_parts: dict[tuple[Path, int, int], bytes] = {}

    def of(self, path: Path, part_bytes: int, on_bytes: Callable[[int], object]) -> str:
        """Return the SHA-256 of a file, in hex; `on_bytes` is called with the size of each read.

        The digests of its parts are computed along with it, and kept in memory.

        Raises:
            OSError: it cannot be read.
        """
        fingerprint = _fingerprint(path)
        if (cached := self._cached(path, fingerprint)) is not None:
            on_bytes(path.stat().st_size)
            return cached
        start_ns = time.time_ns()
        hashed, parts = sha256(), _Parts(part_bytes)
        with ThreadPoolExecutor(1) as executor:
            for piece in pieces(path, 0, None):
                hashing = executor.submit(parts.update, piece)
                hashed.update(piece)
                hashing.result()
                on_bytes(len(piece))
        self._of_parts |= {(path, *part): digest for part, digest in parts.digests()}
        is_old = path.stat().st_mtime_ns < start_ns - MIN_AGE_NS
        if is_old and _fingerprint(path) == fingerprint:
            statement = "REPLACE INTO digests VALUES (?, ?, ?)"
            self._run(statement, path, fingerprint, hashed.hexdigest())
        return hashed.hexdigest()

    def of_part(self, path: Path, offset: int, size_bytes: int) -> bytes:
        """Return the SHA-256 of a range of a file, from memory for a part of a file just read.

        Raises:
            OSError, EOFError: see `pieces`.
        """
        cached = self._of_parts.get((path, offset, size_bytes))
        if cached is not None:
            return cached
        hashed = sha256()
        for piece in pieces(path, offset, size_bytes):
            hashed.update(piece)
        return hashed.digest()

    def forget(self, paths: Iterable[Path]) -> None:
        """Remove the digests of files from the cache."""
        self._of_parts.clear()
        for path in paths:
            self._run("DELETE FROM digests WHERE path = ?", path)

    def _cached(self, path: Path, fingerprint: str) -> str | None:
        rows = self._run(
            "SELECT sha256 FROM digests WHERE path = ? AND seen = ?", path, fingerprint
        )
        return str(rows[0][0]) if rows else None

    def _run(self, statement: str, path: Path, *values: str) -> list[tuple[object, ...]]:
        if self._folder is None:
            return []
        with suppress(OSError, sqlite3.Error):  # a missing cache is no reason to fail
            self._folder.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._folder / "digests.db")) as database, database:
                database.execute(TABLE)
                return database.execute(statement, (str(path.resolve()), *values)).fetchall()
        return []


class _Parts:
    """Digests of the parts of a stream, each of `part_bytes` except the last."""

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes, self._done = part_bytes, 0
        self._hashes = [sha256()]

    def update(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            room = self._part_bytes * len(self._hashes) - self._done
            if not room:
                self._hashes.append(sha256())
                continue
            head, rest = rest[:room], rest[room:]
            self._hashes[-1].update(head)
            self._done += len(head)

    def digests(self) -> Iterator[tuple[tuple[int, int], bytes]]:
        """Yield ((offset, size), digest) of each part."""
        for number, hashed in enumerate(self._hashes):
            offset = number * self._part_bytes
            yield (offset, min(self._part_bytes, self._done - offset)), hashed.digest()


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
