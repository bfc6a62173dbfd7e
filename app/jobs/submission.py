"""Queue jobs: everything that one needs is stored before its row says that there is one."""

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from palettery.app.compression.job_folder import job_folder
from palettery.app.errors import DatabaseFailed, FileGone
from palettery.app.execution.engine import Engine
from palettery.app.files.repository import FileLocation, FileRepository
from palettery.app.http.caller import Caller
from palettery.app.http.idempotency import KeyedRequest, KeyTaken
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.options import JobOptions
from palettery.app.jobs.preparation import JobLocation, JobSpec, PreparedJob, prepare
from palettery.app.jobs.repository import JobRepository
from palettery.app.models.service import bytes_sha256
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.settings import Settings
from palettery.app.storage.base import Storage
from palettery.schemas.jobs import Job

TRIES = 5
"""At queuing a job whose bytes we had already, while others remove them."""


@dataclass(frozen=True)
class SubmittedJob:
    """A job for a request."""

    job: Job
    kept: Collection[str] = ()
    """Where the files lie that it needs."""
    is_replayed: bool = False
    """It was queued before, for the same request under the same key."""


class JobSubmitter:
    """Makes jobs of requests."""

    def __init__(
        self,
        settings: Settings,
        records: JobRepository,
        files: FileRepository,
        store: Storage,
        engine: Engine,
        documents: DocumentPool,
    ) -> None:
        self._settings, self._records, self._files = settings, records, files
        self._store, self._engine, self._documents = store, engine, documents

    def check_room(self, caller: Caller) -> None:
        """See that a caller may queue any job, before its bytes are taken in.

        Raises:
            OverQuota: it may not.
        """
        self._records.check_room(caller.owner, caller.limits)

    def replayed(self, caller: Caller, asked: KeyedRequest | None) -> SubmittedJob | None:
        """The job that the same request was given before; None if it was not sent before.

        Raises:
            IdempotencyConflict: its key was sent with another request.
        """
        known = None if asked is None else self._records.keyed(caller.owner, asked)
        return None if known is None else SubmittedJob(known, is_replayed=True)

    async def accept(
        self,
        look_up: Callable[[], Awaitable[JobSpec]],
        wished: JobOptions,
        caller: Caller,
        asked: KeyedRequest | None,
        client: DocumentClient,
    ) -> SubmittedJob:
        """Queue a job, or find the one that the same request was given meanwhile.

        Raises:
            IdempotencyConflict: its key was sent with another request.
            OverQuota: the caller has too many, or with it too many bytes.
        """
        for tries_left in reversed(range(TRIES)):
            order = await look_up()
            try:
                return await self._queue(order, wished, caller, asked, client)
            except FileGone:  # bytes that we had already were removed meanwhile
                if not tries_left:
                    raise
            except KeyTaken:
                found = await asyncio.to_thread(self.replayed, caller, asked)
                if found is not None:
                    return found
        raise FileGone("jobs under this Idempotency-Key come and go; send the request again")

    async def _queue(
        self,
        order: JobSpec,
        wished: JobOptions,
        caller: Caller,
        asked: KeyedRequest | None,
        client: DocumentClient,
    ) -> SubmittedJob:
        """Store what the job needs, then its row: a row means that nothing is missing."""
        job_id = str(_time_ordered_id())
        settings, prefix = self._settings, job_folder(job_id)
        kept = await asyncio.to_thread(self._kept, order)
        paths = {sha256: file.path for sha256, file in kept.items()}
        place = JobLocation(prefix, paths, settings.task_bytes, self._reuses(wished))
        try:
            prepared = await self._documents.run(
                client,
                order.size_bytes,
                prepare,
                order,
                self._store.url,
                settings.limits,
                place,
            )
            files = [kept[sha256] for sha256 in prepared.files]
            new = self._new(job_id, order, prepared, wished, caller, asked)
            job = await asyncio.to_thread(self._records.add, new, files, self._engine.enqueue)
        except (DatabaseFailed, asyncio.CancelledError):
            raise  # the job may have been queued; if not, the sweep finds its folder
        except BaseException:
            await asyncio.to_thread(self._store.delete_folder, prefix)
            raise
        return SubmittedJob(job, {file.path for file in files})

    def _new(
        self,
        job_id: str,
        order: JobSpec,
        prepared: PreparedJob,
        wished: JobOptions,
        caller: Caller,
        asked: KeyedRequest | None,
    ) -> NewJob:
        deadline = wished.deadline_s and datetime.now(UTC) + timedelta(seconds=wished.deadline_s)
        return NewJob(
            id=job_id,
            model_name=prepared.model_name,
            size_before_bytes=prepared.size_before_bytes,
            progress=prepared.progress,
            stored_bytes=prepared.stored_bytes,
            owner=caller.owner,
            limits=caller.limits,
            priority=wished.priority,
            deadline_at=deadline or None,
            request_sha256=prepared.request_sha256,
            reuse=self._reuses(wished),
            model_id=order.model.model_id,
            model_sha256=bytes_sha256(order.model.files),
            label=wished.label,
            config_name=order.config.name,
            webhook_url=wished.webhook_url,
            keyed=asked,
            told=(prepared.told,),
        )

    def _reuses(self, wished: JobOptions) -> bool:
        return wished.reuse and self._settings.reuse_results

    def _kept(self, order: JobSpec) -> Mapping[str, FileLocation]:
        """Digest -> where its bytes are kept: where they were before, or where they came in."""
        files = {file.sha256: file for file in order.files() if file.sha256}
        brought = {file.sha256 for file in order.brought()}
        known = self._files.find(files)
        for sha256, path in known.items():
            if sha256 in brought and not self._store.exists(path):
                # Somebody removed it behind our back.
                self._files.relocate(sha256, files[sha256].path)
                known[sha256] = files[sha256].path
        return {
            sha256: FileLocation(
                sha256,
                known.get(sha256, file.path),
                file.size_bytes,
                has_row=sha256 in known or sha256 not in brought,
            )
            for sha256, file in files.items()
        }


def _time_ordered_id() -> uuid.UUID:
    """A version 7 UUID: milliseconds, then randomness.

    Source: RFC 9562, section 5.7.
    """
    random = int.from_bytes(os.urandom(10))
    high = (time.time_ns() // 1_000_000) << 80 | random
    return uuid.UUID(int=high & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)
