"""Removal of stored files that no job or model uses."""

from datetime import UTC, datetime

from palettery.app.files.repository import FileRepository
from palettery.app.storage.base import Storage
from palettery.app.storage.verified_reader import digests_path


def remove_unused_files(files: FileRepository, store: Storage) -> None:
    """Remove every unused file; its row is deleted first, so that no job or model can use it."""
    for file in files.unused(datetime.now(UTC)):
        if files.delete_if_unused(file.sha256):
            store.delete(file.path, digests_path(file.sha256))
