"""Atomic file writes: to a temporary name, synced, then renamed."""

import contextlib
import errno
import os
import re
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from palettery.app.storage.streams import Pieces

TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.aside$")
"""Suffix of an incomplete file."""
ATTEMPTS = 100
"""Maximum number of attempts to create a file while others remove its folder."""
NO_COPY_ERRORS = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
"""Errors of `copy_file_range` where the file system does not support it."""
BUFFER_BYTES = 1 << 20
"""Size of one read or write where a range cannot be copied by the kernel."""
T = TypeVar("T")


class AtomicFile:
    """A file under a temporary name until `commit`."""

    def __init__(self, target: Path) -> None:
        self._target, self._path = target, temporary_path(target)
        self._file = create_with_folder(self._path, lambda: self._path.open("xb"))

    def __enter__(self) -> "AtomicFile":
        return self

    def write(self, pieces: Pieces) -> None:
        """Append pieces to the file."""
        for piece in pieces:
            self._file.write(piece)

    def append(self, descriptor: int, offset: int, size_bytes: int) -> None:
        """Append a range of another file and sync it; the kernel copies it if it supports that.

        Syncing each range while the next is hashed leaves little to sync at the end.
        """
        self._file.flush()
        end = offset + size_bytes
        while offset < end:
            try:
                copied = os.copy_file_range(
                    descriptor, self._file.fileno(), end - offset, offset_src=offset
                )
            except OSError as error:
                if error.errno not in NO_COPY_ERRORS:
                    raise
                data = os.pread(descriptor, min(BUFFER_BYTES, end - offset), offset)
                copied = self._file.write(data)
                self._file.flush()
            if copied == 0:
                break
            offset += copied
        os.fsync(self._file.fileno())

    def commit(self) -> None:
        """Sync the file and rename it to its target: a power cut leaves all of it or none."""
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        rename(self._path, self._target)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # flushing buffered bytes may fail; they are discarded
            self._file.close()
        unlink(self._path)


def temporary_path(target: Path) -> Path:
    """Return a new temporary name in the folder of the target."""
    return target.with_name(f"{target.name}.{uuid.uuid4().hex}.aside")


def create_with_folder(path: Path, make: Callable[[], T]) -> T:
    """Return what `make` returns; create the parent folder of `path` first if it is missing.

    Another process may remove the folder while it is empty, so several attempts may be needed.
    """
    for _ in range(ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):
            return make()
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            _make_folder(path.parent)
    return make()


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def rename(source: Path, target: Path) -> None:
    """Rename a file, replacing an existing regular file.

    Raises:
        FileExistsError: the target is not a regular file.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(target.stat().st_mode):
                raise FileExistsError(errno.EEXIST, "the target is not a regular file")
        source.replace(target)
    finally:
        unlink(source)  # rename() does nothing when both names are links to one file
    _sync(target.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unlink(path: Path) -> None:
    """Remove a file if it exists."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()
