"""Local output files: checked before the work, and written atomically."""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Self

from palettery.app.errors import BadInput, PaletteryError
from palettery.app.storage.input_files import displayable, file_kind, has_access

MAX_NAME_BYTES = 200
"""Maximum length of an output's name within temporary names; file systems allow 255 bytes."""
RESULT = "result"
"""Name of a result in its temporary folder."""


class Output:
    """The destination of a result: a regular file (links are followed), pipe or character device.

    With `or_folder` it may also be a folder of several files.

    A regular file is replaced atomically; pipes and devices are written to. Results are created in
    a temporary folder, then published.

    Raises:
        BadInput: the path cannot be written.
    """

    def __init__(self, path: Path, *, or_folder: bool = False) -> None:
        self.path, self.folder = path, path
        """`path` is as the user wrote it; `folder` is the temporary folder from `__enter__` on."""
        self._unpublished: Path | None = None
        """A result that could not be published."""
        status = self._status()
        self.is_stdout = is_stdout(path)
        self.is_stream = self.is_stdout or (
            status is not None and (stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode))
        )
        self.resolved_path = path if self.is_stream else Path(os.path.realpath(path))
        """The path with links resolved."""
        if self.is_stream:
            self._check_stream()
        elif or_folder and (status is None or stat.S_ISDIR(status.st_mode)):
            self._check_parent(
                next(
                    path
                    for path in (self.resolved_path, *self.resolved_path.parents)
                    if path.exists()
                )
            )
        else:
            self._check_file(status)

    def sibling(self, suffix: str) -> Path:
        """Return the path of a hidden file beside the output, named after it."""
        name = os.fsdecode(os.fsencode(self.resolved_path.name)[:MAX_NAME_BYTES])
        return self.resolved_path.with_name(f".{name}.{suffix}")

    def __enter__(self) -> Self:
        """Create the temporary folder on the disk of the output, which checks that it is writable.

        Raises:
            BadInput: it cannot be created.
        """
        try:
            prefix = self.sibling("").name
            parent = None if self.is_stream else self.resolved_path.parent
            self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        except OSError as error:
            raise BadInput(self._message(error)) from error
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the temporary folder, except a result that could not be published."""
        for path in list(self.folder.iterdir()) if self._unpublished else [self.folder]:
            if self._unpublished is None or not self._unpublished.is_relative_to(path):
                shutil.rmtree(path, ignore_errors=True)

    def publish(self, result: Path) -> None:
        """Move a finished file to the output path, or copy it into the stream.

        Raises:
            PaletteryError: it cannot be written; the result is kept, and the error says where.
        """
        try:
            if self.is_stream:
                with result.open("rb") as source, self._open_stream() as stream:
                    shutil.copyfileobj(source, stream)
                return
            self._check_file(self._status())  # it may have changed since the first check
            result.replace(self.resolved_path)
        except (OSError, BadInput) as error:
            self._unpublished = None if self.is_stream else result
            location = f"; the result is kept at {displayable(result)}" if self._unpublished else ""
            message = error.detail if isinstance(error, BadInput) else self._message(error)
            raise PaletteryError(message + location) from error

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Write a result from pieces.

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

    def _status(self) -> os.stat_result | None:
        """Return the status of an existing file, or None."""
        try:
            return self.path.stat()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BadInput(self._message(error)) from error

    def _check_stream(self) -> None:
        if not self.is_stdout and not has_access(self.path, os.W_OK):
            raise BadInput(f"cannot write {self}: permission denied")

    def _check_file(self, status: os.stat_result | None) -> None:
        if status is not None and not stat.S_ISREG(status.st_mode):
            kind = file_kind(status.st_mode)
            raise BadInput(f"{self} is {kind}; name a file to write")
        parent = self.resolved_path.parent
        if not parent.is_dir():
            raise BadInput(
                f"there is no folder {displayable(parent)} to write {self.resolved_path.name} in"
            )
        self._check_parent(parent)
        if status is not None and _is_protected(status, parent.stat()):
            raise BadInput(f"cannot write {self}: it belongs to another user, in a shared folder")

    def _check_parent(self, folder: Path) -> None:
        if not folder.is_dir() or not has_access(folder, os.W_OK | os.X_OK):
            raise BadInput(
                f"cannot write {self}: {displayable(folder)} is not a writable folder; name a file "
                "in another one"
            )

    def _open_stream(self) -> BinaryIO:
        """Open the stream; standard output continues at its current position."""
        if not self.is_stdout:
            return self.path.open("wb")
        sys.stdout.flush()
        return os.fdopen(os.dup(1), "wb")

    def _message(self, error: OSError | ValueError) -> str:
        reason = error.strerror if isinstance(error, OSError) else error
        return f"cannot write {self}: {reason}"


def is_stdout(path: Path) -> bool:
    """Return whether a path is this process's standard output and not /dev/null."""
    try:
        status = path.stat()
        return os.path.samestat(status, os.fstat(1)) and not os.path.samestat(
            status, Path(os.devnull).stat()
        )
    except (OSError, ValueError):  # the path or standard output does not exist
        return False


def is_html(report: Path) -> bool:
    """Return whether a report of this name is written as HTML."""
    return report.suffix.lower() in (".html", ".htm")


def check_writable(path: Path, *, or_folder: bool = False) -> None:
    """Check that a result can be written to a path.

    Raises:
        BadInput: see `Output`.
    """
    Output(path, or_folder=or_folder)


def check_distinct(outputs: Iterable[Output], **inputs: Iterable[Path]) -> None:
    """Check that all inputs and outputs are different files.

    Raises:
        BadInput: an output is an input or another output; names both.
    """
    used: dict[Path, str] = {}
    for what, paths in inputs.items():
        used |= {path.resolve(): f"a file of the {what}; name another file" for path in paths}
    for output in outputs:
        if output.is_stream:
            continue
        if output.resolved_path in used:
            raise BadInput(f"{output} is {used[output.resolved_path]} for the result")
        used[output.resolved_path] = "the other output, too; name another file"


def _is_protected(status: os.stat_result, parent: os.stat_result) -> bool:
    """Return whether another user's file is in a folder with the sticky bit."""
    return bool(parent.st_mode & stat.S_ISVTX) and os.geteuid() not in (
        0,
        status.st_uid,
        parent.st_uid,
    )
