"""Files of this machine that somebody names to be read."""

import os
import re
import stat
from pathlib import Path

from palettery.app.errors import BadInput

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
"""What is no regular file, in words."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""How a URL begins, of whose two slashes a path leaves one."""


def kind_of(mode: int) -> str:
    """What a path leads to, in words, from its `st_mode`."""
    return next((kind for is_kind, kind in KINDS if is_kind(mode)), "a file")


def may(path: Path, mode: int) -> bool:
    """Whether this process may use what a path leads to; modes are those of `os.access`."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def displayable(path: Path | str) -> str:
    """A path as text that can be printed; bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")


def check_readable(path: Path) -> None:
    """See that a path leads to a regular file that may be read; links are followed.

    Raises:
        BadInput: it does not; names what it is instead, or where a link leads.
    """
    shown = displayable(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        if _URL.match(shown):
            raise BadInput(
                f"{shown} is a URL, and only files of this machine are read; download it first"
            ) from error
        raise BadInput(f"there is no file {shown}{_link(path)}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"cannot read {shown}{_link(path)}: {reason}") from error
    if not stat.S_ISREG(mode):
        raise BadInput(
            f"{shown} is {kind_of(mode)}; give a regular file, which can be read at any place"
        )
    if not may(path, os.R_OK):
        raise BadInput(f"cannot read {shown}: permission denied")
    if displayable(path.name) != path.name:
        raise BadInput(f"the name {shown} is not UTF-8; give the file another one, or a link")


def _link(path: Path) -> str:
    """Where a link leads, for a message about one that leads nowhere."""
    return f", a link to {displayable(path.readlink())}" if os.path.islink(path) else ""  # noqa: PTH114 - which raises nothing
