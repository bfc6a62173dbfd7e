"""Folders that sandboxed processes work in, and what they leave there, which nobody trusts."""

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


@contextmanager
def working_folder() -> Iterator[Path]:
    """An empty folder below the system's temporary one, gone when the block ends.

    What processes left that were killed is removed as well: a folder is locked as long as its
    process lives.
    """
    parent = Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    # Nobody takes it for abandoned before it is locked: only then it has the name of the others.
    made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems have no locks; nothing is removed there
            fcntl.flock(lock, fcntl.LOCK_EX)
        folder = made.rename(made.with_name(made.name.removeprefix(".")))
        try:
            yield folder
        finally:
            remove(folder)
    finally:
        os.close(lock)


def open_regular(path: Path) -> BinaryIO:
    """Open a file that a sandboxed process wrote; a link or a device in its place is refused.

    Raises:
        FileNotFoundError: there is none, or no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FileNotFoundError(error.errno, f"no regular file {path.name}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(f"no regular file {path.name}")
    return os.fdopen(descriptor, "rb")


def remove(folder: Path) -> None:
    """Remove a folder, also one that is nested deeper than Python follows."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        subprocess.run(["/bin/rm", "-rf", "--", folder], check=False)  # noqa: S603 - a path of ours


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # of another user, or gone meanwhile
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(folder)
            finally:
                os.close(lock)
