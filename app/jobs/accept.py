"""Queue jobs: everything that one needs is stored before its row says that there is one."""

import os
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.compression.job import job_folder, write_job
from app.errors import DatabaseFailed, FileGone
from app.events.lines import planned
from app.idempotency import KeyedRequest
from app.jobs.engine import Engine
from app.jobs.records import KeyTaken, Records
from app.jobs.request import Wishes
from app.jobs.rows import NewJob
from app.keys.caller import Caller
from app.planning.intake import Intake
from app.planning.tasks import cut
from app.results.keys import request_sha256
from app.settings import Settings
from app.storage import Storage
from app.uploads.records import FileRecords, KeptFile
from schemas.checkpoint import Checkpoint, StoredFile
from schemas.jobs import Job, Progress
from schemas.tasks import CompressionTask, JobRequest

TRIES = 5
"""At queuing a job whose bytes we had already, while others remove them."""


@dataclass(frozen=True)
class Accepted:
    """A job for a request."""

    job: Job
    kept: Collection[str] = ()
    """Where the files lie that it needs."""
    is_replayed: bool = False
    """It was queued before, for the same request under the same key."""


class Acceptance:
    """Makes jobs of requests."""

    def __init__(
        self,
        settings: Settings,
        records: Records,
        files: FileRecords,
        store: Storage,
        engine: Engine,
    ) -> None:
        self._settings, self._records, self._files = settings, records, files
        self._store, self._engine = store, engine

    def check_room(self, caller: Caller) -> None:
        """See that a caller may queue any job, before its bytes are taken in.

        Raises:
            OverQuota: it may not.
        """
        self._records.check_room(caller.owner, caller.limits)

    def replayed(self, caller: Caller, asked: KeyedRequest | None) -> Accepted | None:
        """The job that the same request was given before; None if it was not sent before.

        Raises:
            IdempotencyConflict: its key was sent with another request.
        """
        known = None if asked is None else self._records.keyed(caller.owner, asked)
        return None if known is None else Accepted(known, is_replayed=True)

    def accept(
        self, intake: Intake, wished: Wishes, caller: Caller, asked: KeyedRequest | None
    ) -> Accepted:
        """Queue a job, or find the one that the same request was given meanwhile.

        Raises:
            IdempotencyConflict: its key was sent with another request.
            OverQuota: the caller has too many, or with it too many bytes.
        """
        for _ in range(TRIES - 1):
            try:
                return self._queue(intake, wished, caller, asked)
            except FileGone:
                continue  # bytes that we had already were removed meanwhile
            except KeyTaken:
                if (found := self.replayed(caller, asked)) is not None:
                    return found
        return self._queue(intake, wished, caller, asked)

    def _queue(
        self, intake: Intake, wished: Wishes, caller: Caller, asked: KeyedRequest | None
    ) -> Accepted:
        """Store what the job needs, then its row: a row means that nothing is missing."""
        job_id = str(_time_ordered_id())
        prefix = job_folder(job_id)
        files = self._kept(intake.files())
        checkpoint = _at(intake.checkpoint, files)
        tasks = self._tasks(intake, checkpoint, files, prefix, wished)
        deadline = wished.deadline_s and datetime.now(UTC) + timedelta(seconds=wished.deadline_s)
        new = NewJob(
            id=job_id,
            model_name=checkpoint.files[0].name,
            size_before_bytes=checkpoint.tensor_bytes(),
            progress=Progress(
                tensors_total=len(intake.plan.palettized()),
                bytes_total=sum(task.size_bytes for task in tasks),
            ),
            owner=caller.owner,
            limits=caller.limits,
            priority=wished.priority,
            deadline_at=deadline or None,
            request_sha256=request_sha256(intake),
            reuse=self._reuses(wished),
            keyed=asked,
            told=(planned(intake.plan),),
        )
        request = JobRequest(config=intake.config, checkpoint=checkpoint, plan=intake.plan)
        try:
            write_job(self._store, prefix, request, tasks)
            job = self._records.add(new, list(files.values()), self._engine.enqueue)
        except DatabaseFailed:
            raise  # the job may have been queued; if not, the sweep finds its folder
        except BaseException:
            self._store.delete_folder(prefix)
            raise
        return Accepted(job, {file.path for file in files.values()})

    def _tasks(
        self,
        intake: Intake,
        checkpoint: Checkpoint,
        files: Mapping[str, KeptFile],
        prefix: str,
        wished: Wishes,
    ) -> list[CompressionTask]:
        return cut(
            intake.plan,
            checkpoint,
            source_url=self._store.url,
            store_url=self._store.url,
            parts_prefix=f"{prefix}/parts",
            task_bytes=self._settings.task_bytes,
            digests=self._reuses(wished),
            sensitivities=intake.sensitivities and _at(intake.sensitivities, files),
        )

    def _reuses(self, wished: Wishes) -> bool:
        return wished.reuse and self._settings.reuse_results

    def _kept(self, uploaded: Sequence[StoredFile]) -> dict[str, KeptFile]:
        """Digest -> where its bytes are kept: where they were before, or where they came in."""
        brought = {file.sha256: file for file in uploaded if file.sha256}
        known = self._files.find(brought)
        for sha256, path in known.items():
            if not self._store.exists(path):  # somebody removed it behind our back
                self._files.relocate(sha256, brought[sha256].path)
                known[sha256] = brought[sha256].path
        return {
            sha256: KeptFile(sha256, known.get(sha256, file.path), file.size_bytes, sha256 in known)
            for sha256, file in brought.items()
        }


def _at(checkpoint: Checkpoint, kept: Mapping[str, KeptFile]) -> Checkpoint:
    """With files where they are kept, so that the same bytes are kept once."""
    files = [
        file.model_copy(update={"path": kept[file.sha256].path}) if file.sha256 else file
        for file in checkpoint.files
    ]
    return checkpoint.model_copy(update={"files": tuple(files)})


def _time_ordered_id() -> uuid.UUID:
    """A version 7 UUID: milliseconds, then randomness.

    Source: RFC 9562, section 5.7.
    """
    random = int.from_bytes(os.urandom(10))
    high = (time.time_ns() // 1_000_000) << 80 | random
    return uuid.UUID(int=high & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)
