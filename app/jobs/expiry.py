"""Expiry of jobs, of what ended jobs leave in the store, and of uploads."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from palettery.app.compression.job_folder import JOBS, REPORT, discard_artifact, job_folder
from palettery.app.compression.score_cache import SCORES
from palettery.app.errors import Conflict, NotFound
from palettery.app.events.job_changes import JobChangeRepository
from palettery.app.jobs.repository import JobRepository
from palettery.app.storage.base import Storage, StoredObject
from palettery.app.uploads.expiry import UploadExpiry
from palettery.schemas.jobs import RETRYABLE_STATES

log = logging.getLogger(__name__)


class JobExpiry:
    """Deletes what has expired; may be interrupted anywhere, and run in two processes at once."""

    def __init__(
        self,
        jobs: JobRepository,
        changes: JobChangeRepository,
        uploads: UploadExpiry,
        store: Storage,
        delete: Callable[[str], None],
        orphan_age: timedelta,
        retain: timedelta,
    ) -> None:
        self._jobs, self._changes = jobs, changes
        self._uploads, self._store = uploads, store
        self._delete, self._orphan_age, self._retain = delete, orphan_age, retain

    def run(self) -> None:
        """Delete everything that has expired."""
        for job_id in self._jobs.expired(datetime.now(UTC)):
            try:
                self._delete(job_id)
            except (Conflict, NotFound):
                continue  # retried or deleted meanwhile
        self._changes.delete_old()
        self._uploads.run()
        self._tidy_folders()
        for folder in (JOBS, SCORES):
            self._store.delete_unfinished(folder, datetime.now(UTC) - self._orphan_age)
        self._store.delete(*(each.path for each in self._old(SCORES, self._retain)))

    def _tidy_folders(self) -> None:
        """Delete folders of deleted jobs, and files that ended jobs do not need."""
        folders: dict[str, set[str]] = defaultdict(set)
        for object_ in self._old(JOBS, self._orphan_age):
            _, job_id, *inside = object_.path.split("/")
            folders[job_id].update(inside[:1])
        states = self._jobs.folder_states(folders)
        for job_id, present in folders.items():
            folder = job_folder(job_id)
            state, has_artifact = states.get(job_id, (None, False))
            if state is None:
                log.info("deleting the folder of job %s, which does not exist", job_id)
                self._store.delete_folder(folder)
            elif state == "succeeded" and "parts" in present:
                self._store.delete_folder(f"{folder}/parts")
            elif state in RETRYABLE_STATES and not has_artifact and present & {"artifact", REPORT}:
                discard_artifact(self._store, folder)

    def _old(self, prefix: str, age: timedelta) -> Iterator[StoredObject]:
        before = datetime.now(UTC) - age
        return (each for each in self._store.list_objects(prefix) if each.modified_at <= before)
