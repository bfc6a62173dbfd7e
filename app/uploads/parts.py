"""Parts of uploads: byte ranges of the files, and paths in the store."""

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
    """From 1, counted over all files of the upload."""
    file: int
    """Index of the file."""
    offset: int
    size_bytes: int


def parts_of(files: Sequence[FileToSend], part_size_bytes: int) -> Iterator[Part]:
    """Yield all parts of files, in the order of their numbers."""
    number = 0
    for index, file in enumerate(files):
        for offset in range(0, file.size_bytes, part_size_bytes):
            number += 1
            yield Part(number, index, offset, min(part_size_bytes, file.size_bytes - offset))


def count_parts(files: Sequence[FileToSend], part_size_bytes: int) -> int:
    """Return the number of parts."""
    return sum(-(-file.size_bytes // part_size_bytes) for file in files)


def parts_folder(upload_id: str) -> str:
    """Return the folder of the parts of an upload."""
    return f"{PARTS}/{upload_id}"


def part_path(upload_id: str, number: int) -> str:
    """Return the path of a part."""
    return f"{parts_folder(upload_id)}/{number}"


def parse_upload_id(path: str) -> str | None:
    """Return the id of the upload in the path of a part; None for other paths."""
    return path[len(PARTS) + 1 :].partition("/")[0] if path.startswith(f"{PARTS}/") else None
