"""Files that are written aside, synced and renamed, so that a power cut leaves all or nothing."""

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

ASIDE = re.compile(r"\.[0-9a-f]{32}\.aside$")
"""How the name ends of a file that is not whole."""
TRIES = 100
NO_COPIES = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
"""What a file system answers that cannot copy within itself."""
BUFFER_BYTES = 1 << 20
T = TypeVar("T")


class AtomicFile:
    """A file under a name of its own, until it is whole."""

    def __init__(self, target: Path) -> None:
        self._target, self._place = target, aside(target)
        self._file = in_folder(self._place, lambda: self._place.open("xb"))

    def __enter__(self) -> "AtomicFile":
        return self

    def write(self, pieces: Pieces) -> None:
        """Add to the file."""
        for piece in pieces:
            self._file.write(piece)

    def append(self, descriptor: int, offset: int, size_bytes: int) -> None:
        """Add a range of a file, and sync it; the kernel copies it, where the file system can.

        Whoever adds many, with other work beside each, waits for none of them at the end.
        """
        self._file.flush()
        end = offset + size_bytes
        while offset < end:
            try:
                copied = os.copy_file_range(
                    descriptor, self._file.fileno(), end - offset, offset_src=offset
                )
            except OSError as error:
                if error.errno not in NO_COPIES:
                    raise
                data = os.pread(descriptor, min(BUFFER_BYTES, end - offset), offset)
                copied = self._file.write(data)
                self._file.flush()
            if copied == 0:
                break
            offset += copied
        os.fsync(self._file.fileno())

    def settle(self) -> None:
        """Sync the file and give it its name, so that a power cut leaves all of it or none."""
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        rename(self._place, self._target)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # of bytes held back, which nobody wants any more
            self._file.close()
        unlink(self._place)


def aside(target: Path) -> Path:
    """A new name beside a file's."""
    return target.with_name(f"{target.name}.{uuid.uuid4().hex}.aside")


def in_folder(place: Path, make: Callable[[], T]) -> T:
    """Make something at a place, and its folder, which others may remove while it is empty."""
    for _ in range(TRIES):
        with contextlib.suppress(FileNotFoundError):
            return make()
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            _make_folder(place.parent)
    return make()


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def rename(source: Path, target: Path) -> None:
    """Give a file its name for good, over the file that has it.

    Raises:
        FileExistsError: what has it is no regular file, which is never replaced.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(target.stat().st_mode):
                raise FileExistsError(errno.EEXIST, "something is there that is no regular file")
        source.replace(target)
    finally:
        unlink(source)  # it stays where both are names of one file
    _sync(target.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unlink(place: Path) -> None:
    """Remove a file, if it is there."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        place.unlink()
