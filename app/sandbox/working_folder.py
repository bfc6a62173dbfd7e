"""Working folders of sandboxed processes; their files are untrusted."""

import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PREFIX = "palettery-sandbox-"
"""Prefix of the names of working folders."""


@contextmanager
def working_folder() -> Iterator[Path]:
    """Create an empty temporary folder, deleted when the block ends.

    Abandoned folders of killed processes are deleted as well: a folder is locked as long as its
    process lives.
    """
    parent = Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    # It gets its final name once locked, or another process could take it for abandoned.
    unlocked = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    lock = os.open(unlocked, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        folder = unlocked.rename(unlocked.with_name(unlocked.name.removeprefix(".")))
        try:
            yield folder
        finally:
            remove_tree(folder)
    finally:
        os.close(lock)


def open_regular(path: Path) -> BinaryIO:
    """Open a file that a sandboxed process wrote.

    Devices are refused, as are symbolic links, to the file and to its folder.

    Raises:
        FileNotFoundError: it is missing, or not a regular file.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        folder = os.open(path.parent, flags | os.O_DIRECTORY)
        try:
            descriptor = os.open(path.name, flags, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise FileNotFoundError(error.errno, f"{path.name} is not a regular file") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(f"{path.name} is not a regular file")
    return os.fdopen(descriptor, "rb")


def remove_tree(folder: Path) -> None:
    """Delete a folder, even if nested deeper than Python's recursion limit."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        subprocess.run(["/bin/rm", "-rf", "--", folder], check=False)  # noqa: S603 - a path of ours


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # of another user, or deleted meanwhile
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(folder)
            finally:
                os.close(lock)
