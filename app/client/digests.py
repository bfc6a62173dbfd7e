"""SHA-256 of the user's files, remembered, so that a new try need not read 20 GB again."""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
        self._folder = folder or _cache_folder()
        self._of_parts: dict[tuple[Path, int, int], bytes] = {}

    def of(self, path: Path, part_bytes: int, on_bytes: Callable[[int], object]) -> str:
        """The SHA-256 of a file, in hex; `on_bytes` is called with the size of what was read.

        Those of its parts are computed beside it, and known for a while.

        Raises:
            OSError: it cannot be read.
        """
        seen = _seen(path)
        if (known := self._known(path, seen)) is not None:
            on_bytes(path.stat().st_size)
            return known
        began_ns = time.time_ns()
        hashed, parts = sha256(), _Parts(part_bytes)
        with ThreadPoolExecutor(1) as beside:
            for piece in pieces(path, 0, None):
                other = beside.submit(parts.update, piece)
                hashed.update(piece)
                other.result()
                on_bytes(len(piece))
        self._of_parts |= {(path, *place): digest for place, digest in parts.digests()}
        is_settled = path.stat().st_mtime_ns < began_ns - SETTLED_NS
        if is_settled and _seen(path) == seen:
            self._run("REPLACE INTO digests VALUES (?, ?, ?)", path, seen, hashed.hexdigest())
        return hashed.hexdigest()

    def of_part(self, path: Path, offset: int, size_bytes: int) -> bytes:
        """The SHA-256 of a range of a file; not computed anew for a part of one just read.

        Raises:
            OSError, EOFError: see `pieces`.
        """
        known = self._of_parts.get((path, offset, size_bytes))
        if known is not None:
            return known
        hashed = sha256()
        for piece in pieces(path, offset, size_bytes):
            hashed.update(piece)
        return hashed.digest()

    def forget(self, paths: Iterable[Path]) -> None:
        """Compute them anew next time."""
        self._of_parts.clear()
        for path in paths:
            self._run("DELETE FROM digests WHERE path = ?", path)

    def _known(self, path: Path, seen: str) -> str | None:
        rows = self._run("SELECT sha256 FROM digests WHERE path = ? AND seen = ?", path, seen)
        return str(rows[0][0]) if rows else None

    def _run(self, statement: str, path: Path, *values: str) -> list[tuple[object, ...]]:
        if self._folder is None:
            return []
        with suppress(OSError, sqlite3.Error):  # a convenience, and no reason to fail
            self._folder.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._folder / "digests.db")) as database, database:
                database.execute(TABLE)
                return database.execute(statement, (str(path.resolve()), *values)).fetchall()
        return []


class _Parts:
    """Digests of the parts of what passes, each of so many bytes but for the last."""

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
            taken, rest = rest[:room], rest[room:]
            self._hashes[-1].update(taken)
            self._done += len(taken)

    def digests(self) -> Iterator[tuple[tuple[int, int], bytes]]:
        """((offset, size), digest) of each part."""
        for number, hashed in enumerate(self._hashes):
            offset = number * self._part_bytes
            yield (offset, min(self._part_bytes, self._done - offset)), hashed.digest()


def _cache_folder() -> Path | None:
    """The user's own; None for a user without a home, which some systems call `~`."""
    try:
        folder = user_cache_path("palettery")
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


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
