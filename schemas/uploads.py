"""Uploads in parts as the API takes and shows them."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue, NonNegativeInt, PositiveInt, field_validator

from palettery.schemas.base import Schema
from palettery.schemas.labels import Label

LEAST_PART_BYTES, MOST_PART_BYTES = 8 << 20, 5 << 30
PART_BYTES = 64 << 20
MOST_PARTS = 10_000
"""Of one upload."""
MOST_NAME_CHARACTERS = 255
MOST_FILE_BYTES = 1 << 50
EXAMPLE: dict[str, JsonValue] = {
    "files": [
        {
            "name": "model.safetensors",
            "size_bytes": 90_868_376,
            "sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        }
    ]
}
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileToSend(Schema):
    """A file that is to be sent."""

    name: str = Field(min_length=1, max_length=MOST_NAME_CHARACTERS)
    """What it is called, without folders."""
    size_bytes: int = Field(ge=1, le=MOST_FILE_BYTES)
    """Of the whole file."""
    sha256: Digest
    """Hex digest of the whole file, in lower case."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name.isprintable() or "/" in name or "\\" in name:
            raise ValueError(
                "a file name must have neither slashes nor control characters; send the file's "
                "own name, without its folder"
            )
        if name in (".", "..") or name.isspace():
            raise ValueError(f"{name!r} names no file; send the file's own name")
        return name


class NewUpload(Schema):
    """Files of one model, announced before they are sent."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    files: tuple[FileToSend, ...] = Field(json_schema_extra={"minItems": 1})
    """All files of the model: its shards, with their index if there are several, its config."""
    part_size_bytes: int = Field(default=PART_BYTES, ge=LEAST_PART_BYTES, le=MOST_PART_BYTES)
    """Of every part but the last of each file; there may be 10,000 parts."""
    label: Label | None = None
    """What to call the model, in lists and on the page."""

    @field_validator("files")
    @classmethod
    def _check_files(cls, files: tuple[FileToSend, ...]) -> tuple[FileToSend, ...]:
        if not files:
            raise ValueError("there is no file; name those of one model")
        if (name := _first_duplicate(file.name for file in files)) is not None:
            raise ValueError(f"two files are called {name!r}; each needs a name of its own")
        if (sha256 := _first_duplicate(file.sha256 for file in files)) is not None:
            raise ValueError(f"two files have the SHA-256 {sha256}; send such bytes once")
        return files


class UploadFile(FileToSend):
    """A file of an upload."""

    is_present: bool
    """Whether its bytes are here already, so that no part of it need be sent."""


class UploadPart(Schema):
    """A range of one file, sent by one request."""

    number: PositiveInt
    """Counted from 1 over the parts of all files."""
    file: NonNegativeInt
    """Index of its file in `files`."""
    offset: NonNegativeInt
    """First byte, counted from the start of the file."""
    size_bytes: PositiveInt
    """Exactly so many bytes must be sent."""
    is_received: bool
    """Whether it need not be sent."""
    url: str
    """Where to PUT it: a path of this server, or the address of an object in the store."""


class UploadSummary(Schema):
    """One upload, without its files and parts."""

    id: str
    """Names the upload in every path."""
    state: Literal["open", "complete"]
    """open until it has become a model."""
    name: str
    """Name of the first of its files."""
    file_count: PositiveInt
    """Number of its files."""
    size_bytes: NonNegativeInt
    """Of all files together."""
    part_size_bytes: PositiveInt
    """Of every part but the last of each file."""
    model_id: str | None = None
    """The model that it has become; null until it is complete."""
    label: str | None = None
    """What the model is to be called."""
    created_at: datetime
    """When it was announced."""
    expires_at: datetime
    """When what was sent of it is removed, unless more comes in before."""
    links: dict[str, str]
    """`self`; `complete` while it is open, then `model`."""


class Upload(UploadSummary):
    """One upload with its files and parts."""

    files: tuple[UploadFile, ...]
    """As they were announced."""
    parts: tuple[UploadPart, ...]
    """Of the files that are not present, in the order of their numbers."""


class UploadPage(Schema):
    """One page of uploads, newest first."""

    items: tuple[UploadSummary, ...]
    """Uploads of this page."""
    next_cursor: str | None = None
    """Pass as `cursor` to get the next page; None on the last."""


def _first_duplicate(values: Iterable[str]) -> str | None:
    """The first value that comes a second time."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
