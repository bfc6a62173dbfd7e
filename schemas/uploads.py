"""Uploads of model files in parts."""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    field_validator,
)

from palettery.schemas.base import Schema
from palettery.schemas.labels import Label

MIN_PART_BYTES, MAX_PART_BYTES = 8 << 20, 5 << 30
PART_BYTES = 64 << 20
MAX_PARTS = 10_000
"""Most parts of one upload."""
MAX_NAME_CHARACTERS = 255
MAX_FILE_BYTES = 1 << 50
UPLOAD_EXAMPLE: dict[str, JsonValue] = {
    "files": [
        {
            "name": "model.safetensors",
            "size_bytes": 90_868_376,
            "sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        }
    ]
}
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MAX_INPUTS = 100
"""Largest number of uploads of inputs in one request."""
_DIGEST = re.compile("[0-9a-f]{64}")


def _inputs_id(value: object) -> str | tuple[str, ...]:
    """Return the validated id or ids; unlike a union, this has one error message for both forms."""
    candidates = value if isinstance(value, list | tuple) else [value]
    ids = tuple(each for each in candidates if isinstance(each, str) and _DIGEST.fullmatch(each))
    if len(ids) != len(candidates) or not 1 <= len(ids) <= MAX_INPUTS:
        raise ValueError(
            "inputs_id must be the id of an upload, 64 hexadecimal digits, or a list of 1 to "
            f"{MAX_INPUTS} such ids"
        )
    return ids[0] if isinstance(value, str) else ids


InputsId = Annotated[
    str | tuple[str, ...],
    BeforeValidator(
        _inputs_id,
        json_schema_input_type=Digest
        | Annotated[list[Digest], Field(min_length=1, max_length=MAX_INPUTS)],
    ),
]
"""Id of an upload of inputs, or the ids of several."""


def list_ids(inputs_id: InputsId) -> tuple[str, ...]:
    """Return the ids of all uploads of inputs, in order."""
    return (inputs_id,) if isinstance(inputs_id, str) else inputs_id


class FileToSend(Schema):
    """A file to upload."""

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARACTERS)
    """File name, without folders."""
    size_bytes: int = Field(ge=1, le=MAX_FILE_BYTES)
    """Size of the file."""
    sha256: Digest
    """SHA-256 digest of the file, in lower-case hexadecimal."""

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
    """An upload to create: the files of one model."""

    model_config = ConfigDict(json_schema_extra={"examples": [UPLOAD_EXAMPLE]})

    files: tuple[FileToSend, ...] = Field(json_schema_extra={"minItems": 1})
    """All files of the model: its shards, their index if there are several, and its config."""
    part_size_bytes: int = Field(default=PART_BYTES, ge=MIN_PART_BYTES, le=MAX_PART_BYTES)
    """Size of every part except the last of each file; at most 10,000 parts are allowed."""
    label: Label | None = None
    """Label of the model in lists and on the dashboard."""

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
    """Whether the server has the file already, so that none of its parts has to be sent."""


class UploadPart(Schema):
    """A byte range of one file, sent in one request."""

    number: PositiveInt
    """Number of the part, counted from 1 over all files."""
    file: NonNegativeInt
    """Index of the file in `files`."""
    offset: NonNegativeInt
    """Offset of the first byte in the file."""
    size_bytes: PositiveInt
    """Exact number of bytes to send."""
    is_received: bool
    """Whether the part was received and does not have to be sent."""
    url: str
    """URL for the PUT request: a path of this server, or the URL of an object in the store."""


class UploadSummary(Schema):
    """One upload, without its files and parts."""

    id: str
    """Id of the upload, used in paths."""
    state: Literal["open", "complete"]
    """State of the upload: `open` until it has become a model, then `complete`."""
    name: str
    """Name of the first file."""
    file_count: PositiveInt
    """Number of files."""
    size_bytes: NonNegativeInt
    """Total size of the files."""
    part_size_bytes: PositiveInt
    """Size of every part except the last of each file."""
    model_id: str | None = None
    """Id of the model made from the upload; null until it is complete."""
    label: str | None = None
    """Label for the model."""
    created_at: datetime
    """Time the upload was created, in UTC."""
    expires_at: datetime
    """Time the received parts are deleted unless more arrive before, in UTC."""
    links: dict[str, str]
    """URLs by relation: `self`, and `complete` while the upload is open, then `model`."""


class Upload(UploadSummary):
    """One upload with its files and parts."""

    files: tuple[UploadFile, ...]
    """Files of the upload."""
    parts: tuple[UploadPart, ...]
    """Parts of the files that the server does not have, ordered by number."""


class UploadPage(Schema):
    """One page of uploads, newest first."""

    items: tuple[UploadSummary, ...]
    """Uploads of this page."""
    next_cursor: str | None = None
    """Value of the `cursor` parameter for the next page; null on the last page."""


def _first_duplicate(values: Iterable[str]) -> str | None:
    """Return the first value that occurs twice."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
