"""The stored files of a model, or of its sensitivities."""

from collections.abc import Sequence
from dataclasses import dataclass

from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import StoredFile


@dataclass(frozen=True)
class StoredFiles:
    """Files of one upload, or of one local folder, and their store."""

    storage: Storage
    files: Sequence[StoredFile]
