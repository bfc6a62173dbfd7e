"""Remove what nobody needs: expired jobs, what their ends leave, uploads without use."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from palettery.app.compression.assemble import REPORT
from palettery.app.compression.job_folder import JOBS, discard_artifact, job_folder
from palettery.app.errors import Conflict, NotFound
from palettery.app.events.job_changes import JobChangeRepository
from palettery.app.jobs.repository import JobRepository
from palettery.app.storage.base import Storage, StoredObject
from palettery.app.uploads.expiry import UploadExpiry

log = logging.getLogger(__name__)


class JobExpiry:
    """Every removal may be cut off, or done by two processes at once."""

    def __init__(
        self,
        records: JobRepository,
        changes: JobChangeRepository,
        uploads: UploadExpiry,
        store: Storage,
        delete: Callable[[str], None],
        orphan_age: timedelta,
    ) -> None:
        self._records, self._changes = records, changes
        self._uploads, self._store = uploads, store
        self._delete, self._orphan_age = delete, orphan_age

    def run(self) -> None:
        """Remove everything that nobody needs."""
        for job_id in self._records.expired(datetime.now(UTC)):
            try:
                self._delete(job_id)
            except (Conflict, NotFound):
                continue  # retried or deleted meanwhile
        self._changes.delete_old()
        self._uploads.run()
        self._tidy_folders()
        self._store.delete_unfinished(JOBS, datetime.now(UTC) - self._orphan_age)

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
