"""Local input files."""

import os
import re
import stat
from pathlib import Path

from palettery.app.errors import BadInput

FILE_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
"""Test of `st_mode` -> name, for files that are not regular."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""Start of a URL; `Path` reduces its two slashes to one."""


def file_kind(mode: int) -> str:
    """Return the name of the kind of a file, from its `st_mode`."""
    return next((kind for is_kind, kind in FILE_KINDS if is_kind(mode)), "a file")


def has_access(path: Path, mode: int) -> bool:
    """Return whether this process may access a path; modes are those of `os.access`."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def displayable(path: Path | str) -> str:
    """Return a path as printable text; bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")


def check_readable(path: Path) -> None:
    """Check that a path is a readable regular file; links are followed.

    Raises:
        BadInput: it is not; names what it is instead, or the target of a link.
    """
    name = displayable(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        if _URL.match(name):
            raise BadInput(
                f"{name} is a URL, and only local files are read; download it first"
            ) from error
        raise BadInput(f"there is no file {name}{_describe_link(path)}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"cannot read {name}{_describe_link(path)}: {reason}") from error
    if not stat.S_ISREG(mode):
        raise BadInput(f"{name} is {file_kind(mode)}, not a regular file")
    if not has_access(path, os.R_OK):
        raise BadInput(f"cannot read {name}: permission denied")
    if displayable(path.name) != path.name:
        raise BadInput(f"the name {name} is not UTF-8; rename the file, or pass a link to it")


def _describe_link(path: Path) -> str:
    """Return a clause with the target of a symbolic link; empty for other files."""
    return f", a link to {displayable(path.readlink())}" if os.path.islink(path) else ""  # noqa: PTH114 - never raises
