"""Remove uploads and models whose time is up, and bytes that belong to nothing."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from palettery.app.files.removal import remove_unused_files
from palettery.app.files.repository import FileRepository
from palettery.app.http.multipart import UPLOADS
from palettery.app.models.repository import ModelRepository
from palettery.app.models.stored_contents import MODELS, index_folder
from palettery.app.storage.base import Storage, StoredObject
from palettery.app.storage.checked_reads import DIGESTS
from palettery.app.uploads.parts import parts_folder, upload_of
from palettery.app.uploads.repository import UploadRepository

log = logging.getLogger(__name__)


class UploadExpiry:
    """Every removal may be cut off, or done by two processes at once."""

    def __init__(
        self,
        files: FileRepository,
        sessions: UploadRepository,
        models: ModelRepository,
        store: Storage,
        orphan_age: timedelta,
    ) -> None:
        self._files, self._sessions, self._models = files, sessions, models
        self._store, self._orphan_age = store, orphan_age

    def run(self) -> None:
        """Remove everything that nobody needs."""
        for upload_id in self._sessions.delete_expired():
            self._store.delete_folder(parts_folder(upload_id))
        self._remove_models(set(self._models.delete_expired()))
        remove_unused_files(self._files, self._store)
        self.remove_orphans(self._orphan_age)

    def remove_orphans(self, age: timedelta) -> None:
        """Files that never became a job's or a model's, and parts of no open upload, once so old.

        Of writes that were cut off too.
        """
        self._store.delete_unfinished(UPLOADS, datetime.now(UTC) - age)
        known = set(self._files.paths())
        found = [object_.path for object_ in self._old(UPLOADS, age) if object_.path not in known]
        uploads = {upload_id for path in found if (upload_id := upload_of(path)) is not None}
        still_open = self._sessions.open(uploads)
        gone = [path for path in found if upload_of(path) not in still_open]
        if gone:
            log.info("removing %d files that belong to nothing", len(gone))
            self._store.delete(*gone)
        digests = {
            object_.path.rsplit("/", 1)[1]: object_.path for object_ in self._old(DIGESTS, age)
        }
        unused = digests.keys() - self._files.find(digests).keys()
        self._store.delete(*(digests[sha256] for sha256 in unused))

    def _remove_models(self, expired: set[str]) -> None:
        """What was read from the files of models that nobody has any more."""
        old = {object_.path.split("/")[1] for object_ in self._old(MODELS, self._orphan_age)}
        for model_id in (old | expired) - self._models.known(old | expired):
            self._store.delete_folder(index_folder(model_id))
        self._store.delete_unfinished(MODELS, datetime.now(UTC) - self._orphan_age)

    def _old(self, prefix: str, age: timedelta) -> Iterator[StoredObject]:
        before = datetime.now(UTC) - age
        return (found for found in self._store.listed(prefix) if found.modified_at <= before)
