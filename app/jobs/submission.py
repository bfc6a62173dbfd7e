"""Queueing of jobs: all that a job needs is stored before its row exists."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from uuid_utils.compat import uuid7

from palettery.app.compression.job_folder import job_folder
from palettery.app.errors import DatabaseFailed, FileGone
from palettery.app.evaluation.dense_outputs import outputs_key
from palettery.app.evaluations.repository import NewEvaluation
from palettery.app.execution.engine import Engine
from palettery.app.files.repository import FileLocation, FileRepository
from palettery.app.http.caller import Caller
from palettery.app.http.idempotency import KeyedRequest, KeyTaken
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.preparation import JobSpec, JobStorage, PreparedJob, prepare
from palettery.app.jobs.repository import JobRepository
from palettery.app.jobs.targets import prepare_target
from palettery.app.models.service import bytes_sha256
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.settings import Settings
from palettery.app.storage.base import Storage
from palettery.schemas.jobs import Job

ATTEMPTS = 5
"""Attempts to queue a job while other requests remove stored files that it uses."""


@dataclass(frozen=True)
class SubmittedJob:
    """Job that a request has queued, now or before."""

    job: Job
    file_paths: Collection[str] = ()
    """Paths of the files that it needs."""
    is_replayed: bool = False
    """Whether it was queued before, for the same request under the same key."""


class JobSubmitter:
    """Queues jobs."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobRepository,
        files: FileRepository,
        store: Storage,
        engine: Engine,
        documents: DocumentPool,
    ) -> None:
        self._settings, self._jobs, self._files = settings, jobs, files
        self._store, self._engine, self._documents = store, engine, documents

    def check_room(self, caller: Caller) -> None:
        """Check that a caller may queue another job, before its files are read.

        Raises:
            OverQuota: it may not.
        """
        self._jobs.check_room(caller.owner, caller.limits)

    def replayed(self, caller: Caller, request: KeyedRequest | None) -> SubmittedJob | None:
        """Return the job of the same request sent before; None if there is none.

        Raises:
            IdempotencyConflict: its key was sent with another request.
        """
        job = None if request is None else self._jobs.find_keyed(caller.owner, request)
        return None if job is None else SubmittedJob(job, is_replayed=True)

    async def submit(
        self,
        look_up: Callable[[], Awaitable[JobSpec]],
        caller: Caller,
        request: KeyedRequest | None,
        client: DocumentClient,
    ) -> SubmittedJob:
        """Queue a job, or return the one that the same request has queued meanwhile.

        Raises:
            IdempotencyConflict: its key was sent with another request.
            OverQuota: the caller has too many jobs, or with this one too many bytes.
        """
        for attempts_left in reversed(range(ATTEMPTS)):
            spec = await look_up()
            try:
                return await self._queue(spec, caller, request, client)
            except FileGone:  # files that were stored before were removed meanwhile
                if not attempts_left:
                    raise
            except KeyTaken:
                replayed = await asyncio.to_thread(self.replayed, caller, request)
                if replayed is not None:
                    return replayed
        raise FileGone("the jobs of this Idempotency-Key change constantly; send the request again")

    async def _queue(
        self,
        spec: JobSpec,
        caller: Caller,
        request: KeyedRequest | None,
        client: DocumentClient,
    ) -> SubmittedJob:
        """Store what the job needs, then its row: a job with a row is complete."""
        job_id = str(uuid7())  # ordered by time, as lists of jobs are
        settings, prefix = self._settings, job_folder(job_id)
        locations = await asyncio.to_thread(self._locations, spec)
        paths = {sha256: file.path for sha256, file in locations.items()}
        storage = JobStorage(prefix, paths, settings.task_bytes, self._reuses(spec), caller.owner)
        try:
            prepared = await self._documents.run(
                client,
                spec.size_bytes,
                prepare if spec.options.target is None else prepare_target,
                spec,
                self._store.url,
                settings.limits,
                storage,
            )
            files = [locations[sha256] for sha256 in prepared.files]
            new = self._new(job_id, spec, prepared, caller, request)
            job = await asyncio.to_thread(self._jobs.add, new, files, self._engine.enqueue)
        except (DatabaseFailed, asyncio.CancelledError):
            raise  # the job may have been queued; if not, expiry removes its folder
        except BaseException:
            await asyncio.to_thread(self._store.delete_folder, prefix)
            raise
        return SubmittedJob(job, {file.path for file in files})

    def _new(
        self,
        job_id: str,
        spec: JobSpec,
        prepared: PreparedJob,
        caller: Caller,
        request: KeyedRequest | None,
    ) -> NewJob:
        deadline_s = spec.options.deadline_s
        deadline = deadline_s and datetime.now(UTC) + timedelta(seconds=deadline_s)
        return NewJob(
            id=job_id,
            model_name=prepared.model_name,
            size_before_bytes=prepared.size_before_bytes,
            progress=prepared.progress,
            stored_bytes=prepared.stored_bytes,
            owner=caller.owner,
            limits=caller.limits,
            options=spec.options.model_copy(update={"reuse": self._reuses(spec)}),
            deadline_at=deadline or None,
            request_sha256=prepared.request_sha256,
            model_id=spec.model.model_id,
            model_sha256=bytes_sha256(spec.model.files),
            config_name=spec.config.name,
            kind=spec.kind,
            request=request,
            first_messages=(prepared.first_line,),
            evaluation=_evaluation(spec),
        )

    def _reuses(self, spec: JobSpec) -> bool:
        return spec.options.reuse and self._settings.reuse_results

    def _locations(self, spec: JobSpec) -> Mapping[str, FileLocation]:
        """Return digest -> location: where the bytes were stored before, or just now."""
        files = {file.sha256: file for file in spec.files() if file.sha256}
        uploaded = {file.sha256 for file in spec.uploaded_files()}
        known = self._files.find(files)
        for sha256, path in known.items():
            if sha256 in uploaded and not self._store.exists(path):
                # The file was removed from the store, but not by this service.
                self._files.relocate(sha256, files[sha256].path)
                known[sha256] = files[sha256].path
        return {
            sha256: FileLocation(
                sha256,
                known.get(sha256, file.path),
                file.size_bytes,
                has_row=sha256 in known or sha256 not in uploaded,
            )
            for sha256, file in files.items()
        }


def _evaluation(spec: JobSpec) -> NewEvaluation | None:
    options, target, inputs = spec.options.evaluate, spec.options.target, spec.inputs
    if options is None or inputs is None:
        return None
    return NewEvaluation(
        id=str(uuid7()),
        inputs_id=options.inputs_id,
        inputs=inputs.files,
        at_least=options.at_least or (target.quality if target else None),
        outputs_key=outputs_key(spec.model.files, inputs.files),
        is_part_of_job=True,
    )
