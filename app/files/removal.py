"""Files that nothing needs any more."""

from datetime import UTC, datetime

from palettery.app.files.repository import FileRepository
from palettery.app.storage.base import Storage
from palettery.app.storage.checked_reads import digests_path


def remove_unused_files(files: FileRepository, store: Storage) -> None:
    """Files whose last job or model was deleted; the row goes first, so that nobody takes it."""
    for file in files.unused(datetime.now(UTC)):
        if files.forget(file.sha256):
            store.delete(file.path, digests_path(file.sha256))
