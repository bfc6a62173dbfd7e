"""An object store in a local folder."""

import asyncio
import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np

from palettery.app.errors import BadInput, ObjectMissing, StorageFailed, StorageFull
from palettery.app.storage.atomic_file import (
    BUFFER_BYTES,
    TEMPORARY,
    AtomicFile,
    create_with_folder,
    rename,
    temporary_path,
    unlink,
)
from palettery.app.storage.base import CHUNK_BYTES, Capacity, Storage, StoredObject
from palettery.app.storage.file_digest import FileDigest
from palettery.app.storage.streams import AsyncPieces, Pieces, batches

NO_LINK_ERRORS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
"""Errors of `link` where the file system does not support hard links."""
MIN_FREE_BYTES = 4 << 20
"""Space that writes leave free for SQLite's log, which it needs to delete rows."""
STEP_BYTES = 64 << 20
"""Bytes joined between two checks for cancellation."""


@dataclass(frozen=True)
class Folder(Storage):
    """An object store in a folder; files are written atomically and never modified.

    It calls the operating system directly: ranged reads are 1.5 to 3.5 times as fast as those of
    obstore's local store, streamed writes as fast (benchmarks/storage.py).
    """

    root: Path

    def read(self, path: str, offset: int = 0, size_bytes: int | None = None) -> memoryview:
        """See `Storage.read`."""
        with self._translate_errors(path):
            descriptor = os.open(self._path(path), os.O_RDONLY)
            try:
                available = max(os.fstat(descriptor).st_size - offset, 0)
                requested = available if size_bytes is None else size_bytes
                data = _read(descriptor, offset, min(requested, available))
            finally:
                os.close(descriptor)
        if len(data) < requested:
            missing = requested - len(data)
            raise ObjectMissing(f"{path} ends {missing:,} bytes before the range does")
        return data.toreadonly()

    def write(self, path: str, data: bytes | memoryview | Pieces) -> None:
        """See `Storage.write`."""
        with self._translate_errors(path), AtomicFile(self._path(path)) as file:
            pieces = [data] if isinstance(data, bytes | memoryview) else data
            file.write(self._check_free_space(pieces))
            file.commit()

    async def write_stream(self, path: str, data: AsyncPieces) -> None:
        """See `Storage.write_stream`."""
        with (
            self._translate_errors(path),
            await asyncio.to_thread(AtomicFile, self._path(path)) as file,
        ):
            async for pieces in batches(data, CHUNK_BYTES):
                await asyncio.to_thread(file.write, self._check_free_space(pieces))
            await asyncio.to_thread(file.commit)

    async def join(self, sources: Sequence[str], target: str) -> FileDigest:
        """See `Storage.join`; each step is copied and hashed at the same time."""
        digest = FileDigest()
        with (
            self._translate_errors(target),
            await asyncio.to_thread(AtomicFile, self._path(target)) as file,
        ):
            for source in sources:
                with self._translate_errors(source), self._path(source).open("rb") as opened:
                    descriptor = opened.fileno()
                    size_bytes = os.fstat(descriptor).st_size
                    for start in range(0, size_bytes, STEP_BYTES):
                        part = (descriptor, start, min(STEP_BYTES, size_bytes - start))
                        await _run_in_parallel(
                            partial(file.append, *part), partial(_hash, digest, *part)
                        )
            await asyncio.to_thread(file.commit)
        return digest

    def _check_free_space(self, pieces: Pieces) -> Pieces:
        """Yield the pieces; fail before the disk is full, to leave space for the database."""
        for piece in pieces:
            if len(piece) and shutil.disk_usage(self.root).free < MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield piece

    def copy(self, source: str, target: str) -> None:
        """See `Storage.copy`; a hard link whose modification time becomes now, as in a bucket."""
        with self._translate_errors(source):
            path, temporary = self._path(source), temporary_path(self._path(target))
            path.stat()
            try:
                create_with_folder(temporary, lambda: os.link(path, temporary))
            except OSError as error:
                if error.errno not in NO_LINK_ERRORS:
                    raise
                self.write(target, self.chunks(source, 0, self.size_bytes(source)))
                return
            os.utime(temporary)
            rename(temporary, self._path(target))

    def size_bytes(self, path: str) -> int:
        """See `Storage.size_bytes`."""
        with self._translate_errors(path):
            status = self._path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise ObjectMissing(f"nothing is stored at {path}")
        return status.st_size

    def capacity(self) -> Capacity | None:
        """See `Storage.capacity`."""
        try:
            usage = shutil.disk_usage(self.root)
        except OSError:
            return None
        return Capacity(usage.free, usage.total)

    def health_problem(self) -> str | None:
        """See `Storage.health_problem`; the folder must exist and be writable."""
        if not self.root.is_dir():
            return f"there is no folder {self.root}"
        if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            return f"this process may not read and write the folder {self.root}"
        return None

    def delete(self, *paths: str) -> None:
        """See `Storage.delete`; empty parent folders are removed too."""
        for path in paths:
            with self._translate_errors(path):
                file = self._path(path)
                unlink(file)
                self._prune(file.parent)

    def delete_folder(self, prefix: str) -> None:
        """See `Storage.delete_folder`; empty parent folders are removed too."""
        with self._translate_errors(prefix):
            top = self._path(prefix) if prefix else self.root
            for folder, folders, files in os.walk(
                top, topdown=False, onerror=_raise_unless_missing
            ):
                for name in files:
                    unlink(Path(folder, name))
                for name in folders:
                    _remove_empty(Path(folder, name))
            self._prune(top)

    def delete_unfinished(self, prefix: str, before: datetime) -> int:
        """See `Storage.delete_unfinished`."""
        unfinished = [
            file
            for file, status in self._files(prefix)
            if TEMPORARY.search(file.name) and status.st_mtime < before.timestamp()
        ]
        for file in unfinished:
            with self._translate_errors(file.name):
                unlink(file)
                self._prune(file.parent)
        return len(unfinished)

    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        """See `Storage.list_objects`."""
        for file, status in self._files(prefix):
            if not TEMPORARY.search(file.name):
                path = file.relative_to(self.root).as_posix()
                modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
                yield StoredObject(path, status.st_size, modified_at)

    def _files(self, prefix: str) -> Iterator[tuple[Path, os.stat_result]]:
        with self._translate_errors(prefix):
            top = self._path(prefix) if prefix else self.root
            for folder, _, names in os.walk(top, onerror=_raise_unless_missing):
                for name in names:
                    file = Path(folder, name)
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        yield file, file.stat()

    def _path(self, path: str) -> Path:
        parts = path.split("/")
        if "\0" in path or any(part in ("", ".", "..") for part in parts):
            raise StorageFailed(f"{path[:256]!r} is not a path in the store")
        return self.root.joinpath(*parts)

    def _prune(self, folder: Path) -> None:
        """Remove a folder and its parents as long as they are empty, except the root."""
        while folder != self.root and _remove_empty(folder):
            folder = folder.parent

    @contextlib.contextmanager
    def _translate_errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _raise_translated(error, path)


def open_folder(url: str) -> Folder:
    """Open the folder of a `file:///folder` URL, creating it when missing.

    Raises:
        BadInput: the URL names a host, has no path, or has a query or fragment.
    """
    parts = urlsplit(url)
    if "?" in url or "#" in url:
        raise BadInput(
            f"{url!r} has a ? or #, which ends the path; write %3F or %23 if it is part of the path"
        )
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise BadInput(f"{url!r} is not a folder on this machine; write file:///its/path")
    root = Path(os.fsdecode(unquote_to_bytes(parts.path)))
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _raise_translated(error, str(root))
    return Folder(url, root)


async def _run_in_parallel(first: Callable[[], None], second: Callable[[], None]) -> None:
    """Run two functions in threads at the same time; wait for both even if cancelled."""
    both = asyncio.gather(asyncio.to_thread(first), asyncio.to_thread(second))
    try:
        await asyncio.shield(both)
    except asyncio.CancelledError:
        await asyncio.wait([both])
        raise


def _hash(digest: FileDigest, descriptor: int, offset: int, size_bytes: int) -> None:
    buffer = memoryview(bytearray(min(BUFFER_BYTES, size_bytes)))
    end = offset + size_bytes
    while offset < end and (read := os.preadv(descriptor, [buffer[: end - offset]], offset)):
        digest.update(buffer[:read])
        offset += read


def _read(descriptor: int, offset: int, size_bytes: int) -> memoryview:
    """Return a range of a file, or as much of it as exists."""
    buffer = np.empty(size_bytes, np.uint8).data  # on huge pages, unlike bytes
    total = 0
    while total < size_bytes:
        read_bytes = os.preadv(descriptor, [buffer[total:]], offset + total)
        if read_bytes == 0:
            break
        total += read_bytes
    return buffer[:total]


def _remove_empty(folder: Path) -> bool:
    """Remove a folder if it is empty; return whether it is gone."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _raise_translated(error: OSError, path: str) -> NoReturn:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        raise ObjectMissing(f"nothing is stored at {path}") from error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise StorageFull("the store is full; free some space, then retry") from error
    raise StorageFailed(f"the store failed at {path}: {error.strerror or error}") from error
