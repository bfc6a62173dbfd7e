"""Records of uploads, as read from the database."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from pydantic import TypeAdapter

from palettery.app.database.tables import UploadRow
from palettery.schemas.uploads import FileToSend

_FILES = TypeAdapter(tuple[FileToSend, ...])


@dataclass(frozen=True)
class UploadMetadata:
    """An upload without its list of files."""

    id: str
    owner: str
    file_count: int
    name: str
    """Name of the first file."""
    size_bytes: int
    """Size of all files together."""
    counted_bytes: int
    """Bytes of its files that count toward the owner's quota."""
    part_size_bytes: int
    created_at: datetime
    expires_at: datetime
    model_id: str | None
    """The model that it has become; None while it is open."""
    label: str | None
    """Label of the future model."""

    @classmethod
    def from_row(cls, row: UploadRow) -> Self:
        """Return the upload in a row."""
        return cls(**_row_fields(row))


@dataclass(frozen=True)
class StoredUpload(UploadMetadata):
    """An upload with its list of files."""

    files: tuple[FileToSend, ...]

    @classmethod
    def from_row(cls, row: UploadRow) -> Self:
        """Return the upload in a row."""
        return cls(**_row_fields(row), files=_FILES.validate_json(row.files))


def files_json(files: tuple[FileToSend, ...]) -> str:
    """Return a list of files as JSON for a row."""
    return _FILES.dump_json(files).decode()


def _row_fields(row: UploadRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "owner": row.owner,
        "file_count": row.file_count,
        "name": row.name,
        "size_bytes": row.size_bytes,
        "counted_bytes": row.missing_bytes,
        "part_size_bytes": row.part_size_bytes,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "model_id": row.model_id,
        "label": row.label,
    }
