"""Removal of expired uploads and models, and of orphaned files."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from palettery.app.files.removal import remove_unused_files
from palettery.app.files.repository import FileRepository
from palettery.app.http.multipart import UPLOADS
from palettery.app.models.repository import ModelRepository
from palettery.app.models.stored_contents import MODELS, index_folder
from palettery.app.storage.base import Storage, StoredObject
from palettery.app.storage.verified_reader import DIGESTS
from palettery.app.uploads.parts import parse_upload_id, parts_folder
from palettery.app.uploads.repository import UploadRepository

log = logging.getLogger(__name__)


class UploadExpiry:
    """Removes what has expired; runs may be interrupted, repeated and concurrent."""

    def __init__(
        self,
        files: FileRepository,
        uploads: UploadRepository,
        models: ModelRepository,
        store: Storage,
        orphan_age: timedelta,
    ) -> None:
        self._files, self._uploads, self._models = files, uploads, models
        self._store, self._orphan_age = store, orphan_age

    def run(self) -> None:
        """Remove everything that has expired."""
        for upload_id in self._uploads.delete_expired():
            self._store.delete_folder(parts_folder(upload_id))
        self._remove_models(set(self._models.delete_expired()))
        remove_unused_files(self._files, self._store)
        self.remove_orphans(self._orphan_age)

    def remove_orphans(self, age: timedelta) -> None:
        """Remove files older than `age` that no job, model or open upload uses.

        These include the files of interrupted writes.
        """
        self._store.delete_unfinished(UPLOADS, datetime.now(UTC) - age)
        used = set(self._files.paths())
        unused = [
            object_.path for object_ in self._older_than(UPLOADS, age) if object_.path not in used
        ]
        uploads = {upload_id for path in unused if (upload_id := parse_upload_id(path)) is not None}
        still_open = self._uploads.open_ids(uploads)
        orphans = [path for path in unused if parse_upload_id(path) not in still_open]
        if orphans:
            log.info("removing %d orphaned files", len(orphans))
            self._store.delete(*orphans)
        digests = {
            object_.path.rsplit("/", 1)[1]: object_.path
            for object_ in self._older_than(DIGESTS, age)
        }
        orphaned = digests.keys() - self._files.find(digests).keys()
        self._store.delete(*(digests[sha256] for sha256 in orphaned))

    def _remove_models(self, expired: set[str]) -> None:
        """Remove the parsed contents of models that no owner has any more, expired or orphaned."""
        old = {object_.path.split("/")[1] for object_ in self._older_than(MODELS, self._orphan_age)}
        for model_id in (old | expired) - self._models.existing_ids(old | expired):
            self._store.delete_folder(index_folder(model_id))
        self._store.delete_unfinished(MODELS, datetime.now(UTC) - self._orphan_age)

    def _older_than(self, prefix: str, age: timedelta) -> Iterator[StoredObject]:
        before = datetime.now(UTC) - age
        return (
            object_ for object_ in self._store.list_objects(prefix) if object_.modified_at <= before
        )
