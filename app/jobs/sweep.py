"""Remove what nobody needs: expired jobs, bytes without an owner, leftovers of what was cut off."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from app.compression.assemble import REPORT
from app.compression.job import JOBS, discard_artifact, job_folder
from app.errors import Conflict, NotFound
from app.jobs.records import Records
from app.storage import Storage, StoredObject
from app.uploads.multipart import UPLOADS
from app.uploads.records import FileRecords

log = logging.getLogger(__name__)


class Sweep:
    """Every removal may be cut off, or done by two processes at once."""

    def __init__(
        self,
        records: Records,
        files: FileRecords,
        store: Storage,
        delete: Callable[[str], None],
        orphan_age: timedelta,
    ) -> None:
        self._records, self._files, self._store = records, files, store
        self._delete, self._orphan_age = delete, orphan_age

    def run(self) -> None:
        """Remove everything that nobody needs."""
        for job_id in self._records.expired(datetime.now(UTC)):
            try:
                self._delete(job_id)
            except (Conflict, NotFound):
                continue  # retried or deleted meanwhile
        remove_unused_files(self._files, self._store)
        self.remove_uploads(self._orphan_age)
        self._tidy_folders()
        self._store.delete_unfinished(JOBS, datetime.now(UTC) - self._orphan_age)

    def remove_uploads(self, age: timedelta) -> None:
        """Uploaded files that never became a job's, whole or in part, once they are so old."""
        self._store.delete_unfinished(UPLOADS, datetime.now(UTC) - age)
        known = set(self._files.paths())
        found = self._old(UPLOADS, age)
        self._remove(object_.path for object_ in found if object_.path not in known)

    def _tidy_folders(self) -> None:
        """Folders of jobs that are no more, and what a job's end leaves without use."""
        holding: dict[str, set[str]] = defaultdict(set)
        for object_ in self._old(JOBS, self._orphan_age):
            _, job_id, *what = object_.path.split("/")
            holding[job_id].update(what[:1])
        states = self._records.states(holding)
        for job_id, held in holding.items():
            folder, state = job_folder(job_id), states.get(job_id)
            if state is None:
                log.info("removing the folder of job %s, which is no more", job_id)
                self._store.delete_folder(folder)
            elif state == "succeeded" and "parts" in held:
                self._store.delete_folder(f"{folder}/parts")
            elif state in ("failed", "cancelled") and held & {"artifact", REPORT}:
                discard_artifact(self._store, folder)

    def _old(self, prefix: str, age: timedelta) -> Iterator[StoredObject]:
        before = datetime.now(UTC) - age
        return (found for found in self._store.listed(prefix) if found.modified_at <= before)

    def _remove(self, paths: Iterator[str]) -> None:
        gone = list(paths)
        if gone:
            log.info("removing %d files that belong to nothing", len(gone))
            self._store.delete(*gone)


def remove_unused_files(files: FileRecords, store: Storage) -> None:
    """Uploaded files whose last job was deleted; the row goes first, so that no job takes it."""
    for file in files.unused(datetime.now(UTC)):
        if files.forget(file.sha256):
            store.delete(file.path)
