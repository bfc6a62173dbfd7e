"""Files of this machine that results go to: found fit before the work, and whole or not there."""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Self

from palettery.app.errors import BadInput, PaletteryError
from palettery.app.storage.input_files import displayable, kind_of, may

MOST_NAME_BYTES = 200
"""Of an output's name in the name of what lies beside it; file systems end at 255."""
RESULT = "result"
"""Name of a result that has no other, in its temporary folder."""


class Output:
    """Where a result goes: a regular file behind any links, or a pipe or character device.

    With `or_folder` it may become, or be, a folder of several files.

    A file is replaced as a whole. What is no regular file is never replaced: a stream is written
    to, and nothing else can be an output. Results are made in a temporary folder, then published.

    Raises:
        BadInput: nothing can be written there.
    """

    def __init__(self, path: Path, *, or_folder: bool = False) -> None:
        self.path, self.folder = path, path
        """As somebody named it; and where results are made, from `__enter__` on."""
        self._kept: Path | None = None
        """A result that was not published."""
        found = self._found()
        self.is_stdout = is_stdout(path)
        self.is_stream = self.is_stdout or (
            found is not None and (stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode))
        )
        self.place = path if self.is_stream else Path(os.path.realpath(path))
        """The file itself, behind links."""
        if self.is_stream:
            self._check_stream()
        elif or_folder and (found is None or stat.S_ISDIR(found.st_mode)):
            self._check_parent(
                next(each for each in (self.place, *self.place.parents) if each.exists())
            )
        else:
            self._check_file(found)

    def beside(self, suffix: str) -> Path:
        """A hidden neighbour of the file, with its name as far as there is room for it."""
        name = os.fsdecode(os.fsencode(self.place.name)[:MOST_NAME_BYTES])
        return self.place.with_name(f".{name}.{suffix}")

    def __enter__(self) -> Self:
        """Make its temporary folder, on the file's own disk; that it can be made is the last check.

        Raises:
            BadInput: there can be none.
        """
        try:
            prefix = self.beside("").name
            parent = None if self.is_stream else self.place.parent
            self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        except OSError as error:
            raise BadInput(self._message(error)) from error
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the temporary folder, but for a result that could not be published."""
        for each in list(self.folder.iterdir()) if self._kept else [self.folder]:
            if self._kept is None or not self._kept.is_relative_to(each):
                shutil.rmtree(each, ignore_errors=True)

    def publish(self, result: Path) -> None:
        """Give a finished file its name, or copy it into the stream.

        Raises:
            PaletteryError: it cannot be written; a file is kept where it is, and the error says so.
        """
        try:
            if self.is_stream:
                with result.open("rb") as source, self._opened() as stream:
                    shutil.copyfileobj(source, stream)
                return
            self._check_file(self._found())  # again: much may have happened since
            result.replace(self.place)
        except (OSError, BadInput) as error:
            self._kept = None if self.is_stream else result
            kept = f"; the result is kept at {displayable(result)}" if self._kept else ""
            message = error.detail if isinstance(error, BadInput) else self._message(error)
            raise PaletteryError(message + kept) from error

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Write a result in pieces.

        Raises:
            PaletteryError: see `publish`.
        """
        result = self.folder / RESULT
        try:
            with result.open("wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PaletteryError(self._message(error)) from error
        self.publish(result)

    def __str__(self) -> str:
        return displayable(self.path)

    def _found(self) -> os.stat_result | None:
        """What is there already."""
        try:
            return self.path.stat()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BadInput(self._message(error)) from error

    def _check_stream(self) -> None:
        if not self.is_stdout and not may(self.path, os.W_OK):
            raise BadInput(f"cannot write {self}: permission denied")

    def _check_file(self, found: os.stat_result | None) -> None:
        if found is not None and not stat.S_ISREG(found.st_mode):
            kind = kind_of(found.st_mode)
            raise BadInput(f"{self} is {kind}; name the file to write")
        parent = self.place.parent
        if not parent.is_dir():
            raise BadInput(
                f"there is no folder {displayable(parent)} to write {self.place.name} in"
            )
        self._check_parent(parent)
        if found is not None and _is_protected(found, parent.stat()):
            raise BadInput(f"cannot write {self}: it is somebody else's, in a shared folder")

    def _check_parent(self, folder: Path) -> None:
        if not folder.is_dir() or not may(folder, os.W_OK | os.X_OK):
            raise BadInput(
                f"cannot write {self}: {displayable(folder)} is no folder that may be written; "
                "name a file in another one"
            )

    def _opened(self) -> BinaryIO:
        """The stream; standard output goes on where it is."""
        if not self.is_stdout:
            return self.path.open("wb")
        sys.stdout.flush()
        return os.fdopen(os.dup(1), "wb")

    def _message(self, error: OSError | ValueError) -> str:
        reason = error.strerror if isinstance(error, OSError) else error
        return f"cannot write {self}: {reason}"


def is_stdout(path: Path) -> bool:
    """Whether a path leads to what our standard output goes to, unless that is thrown away."""
    try:
        found = path.stat()
        return os.path.samestat(found, os.fstat(1)) and not os.path.samestat(
            found, Path(os.devnull).stat()
        )
    except (OSError, ValueError):  # there is nothing at the path, or no standard output
        return False


def is_page(report: Path) -> bool:
    """Whether a report of this name is to be looked at in a browser."""
    return report.suffix.lower() in (".html", ".htm")


def check_writable(path: Path, *, or_folder: bool = False) -> None:
    """See that a result can go to a path, before there is one.

    Raises:
        BadInput: see `Output`.
    """
    Output(path, or_folder=or_folder)


def check_apart(outputs: Iterable[Output], **inputs: Iterable[Path]) -> None:
    """See that no output is an input, or another output.

    Raises:
        BadInput: names both.
    """
    used: dict[Path, str] = {}
    for what, paths in inputs.items():
        used |= {path.resolve(): f"a file of the {what}; name another file" for path in paths}
    for output in outputs:
        if output.is_stream:
            continue
        if output.place in used:
            raise BadInput(f"{output} is {used[output.place]} for the result")
        used[output.place] = "the other output, too; name another file"


def _is_protected(found: os.stat_result, parent: os.stat_result) -> bool:
    """Whether a file of somebody else lies in a folder where only owners replace files."""
    return bool(parent.st_mode & stat.S_ISVTX) and os.geteuid() not in (
        0,
        found.st_uid,
        parent.st_uid,
    )
