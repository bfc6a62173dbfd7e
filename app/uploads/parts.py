"""How the files of an upload are cut into parts, and where these lie in the store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from palettery.app.http.multipart import UPLOADS
from palettery.schemas.uploads import FileToSend

PARTS = f"{UPLOADS}/parts"
"""Folder of the parts of all open uploads."""


@dataclass(frozen=True)
class Part:
    """A range of one file, sent by one request."""

    number: int
    """Counted from 1 over the parts of all files."""
    file: int
    """Index of the file."""
    offset: int
    size_bytes: int


def parts_of(files: Sequence[FileToSend], part_size_bytes: int) -> Iterator[Part]:
    """All parts of files, in the order of their numbers."""
    number = 0
    for index, file in enumerate(files):
        for offset in range(0, file.size_bytes, part_size_bytes):
            number += 1
            yield Part(number, index, offset, min(part_size_bytes, file.size_bytes - offset))


def count_parts(files: Sequence[FileToSend], part_size_bytes: int) -> int:
    """How many parts files have."""
    return sum(-(-file.size_bytes // part_size_bytes) for file in files)


def parts_folder(upload_id: str) -> str:
    """Where the parts of an upload lie."""
    return f"{PARTS}/{upload_id}"


def part_path(upload_id: str, number: int) -> str:
    """Where a part lies."""
    return f"{parts_folder(upload_id)}/{number}"


def upload_of(path: str) -> str | None:
    """The id of the upload whose part lies at a path; None if that is no part's path."""
    return path[len(PARTS) + 1 :].partition("/")[0] if path.startswith(f"{PARTS}/") else None
