"""SHA-256 of the user's files, remembered, so that a new try need not read 20 GB again."""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path

from platformdirs import user_cache_path

PIECE_BYTES = 4 << 20
SETTLED_NS = 2_000_000_000
"""A file that changed less than this before it was read may change again within the same tick of
the file system's clock, and look the same."""
TABLE = (
    "CREATE TABLE IF NOT EXISTS digests"
    " (path TEXT PRIMARY KEY, seen TEXT NOT NULL, sha256 TEXT NOT NULL)"
)


class Digests:
    """Digests of files, each as long as its file looks unchanged.

    Without a place to remember them they are computed each time.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or user_cache_path("palettery")

    def of(self, path: Path, on_bytes: Callable[[int], object]) -> str:
        """The SHA-256 of a file, in hex; `on_bytes` is called with the size of what was read.

        Raises:
            OSError: it cannot be read.
        """
        seen = _seen(path)
        if (known := self._known(path, seen)) is not None:
            on_bytes(path.stat().st_size)
            return known
        began_ns = time.time_ns()
        hashed = sha256()
        for piece in pieces(path, 0, None):
            hashed.update(piece)
            on_bytes(len(piece))
        is_settled = path.stat().st_mtime_ns < began_ns - SETTLED_NS
        if is_settled and _seen(path) == seen:
            self._run("REPLACE INTO digests VALUES (?, ?, ?)", path, seen, hashed.hexdigest())
        return hashed.hexdigest()

    def forget(self, paths: Iterable[Path]) -> None:
        """Compute them anew next time."""
        for path in paths:
            self._run("DELETE FROM digests WHERE path = ?", path)

    def _known(self, path: Path, seen: str) -> str | None:
        rows = self._run("SELECT sha256 FROM digests WHERE path = ? AND seen = ?", path, seen)
        return str(rows[0][0]) if rows else None

    def _run(self, statement: str, path: Path, *values: str) -> list[tuple[object, ...]]:
        with suppress(OSError, sqlite3.Error):  # a convenience, and no reason to fail
            self._folder.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._folder / "digests.db")) as database, database:
                database.execute(TABLE)
                return database.execute(statement, (str(path.resolve()), *values)).fetchall()
        return []


def pieces(path: Path, offset: int, size_bytes: int | None) -> Iterator[bytes]:
    """A range of a file, up to its end if no size is given.

    Raises:
        OSError: it cannot be read.
        EOFError: it ends before the range does.
    """
    with path.open("rb") as file:
        file.seek(offset)
        left = size_bytes
        while piece := file.read(PIECE_BYTES if left is None else min(PIECE_BYTES, left)):
            yield piece
            left = None if left is None else left - len(piece)
    if left:
        raise EOFError


def _seen(path: Path) -> str:
    """What changes when a file does."""
    stat = path.stat()
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
