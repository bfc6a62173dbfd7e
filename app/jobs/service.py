"""Accept jobs and look after them: what the endpoints ask for."""

import asyncio
import base64
import binascii
import os
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from starlette.requests import Request

from app.compression.assemble import artifact_path, report_path
from app.compression.job import job_folder, write_job
from app.configs import chosen_config
from app.errors import BadInput, Conflict, DatabaseFailed, FileGone, NotFound
from app.events.lines import planned
from app.jobs.control import Control
from app.jobs.download import StoredDownload
from app.jobs.engine import Engine
from app.jobs.records import Records
from app.jobs.request import Wishes, wishes
from app.keys.caller import Caller
from app.planning.intake import Intake, Upload, take_in
from app.planning.tasks import cut
from app.results.keys import request_sha256
from app.settings import Settings
from app.storage import Storage
from app.uploads.multipart import Form, read_form
from app.uploads.records import FileRecords, KeptFile
from schemas.checkpoint import Checkpoint, StoredFile
from schemas.jobs import Job, JobPage, Progress
from schemas.plan import Plan
from schemas.report import Report
from schemas.tasks import JobRequest

READ_AT_ONCE = 3
"""Uploads read and planned at once; the others wait without holding a thread."""
ACCEPT_TRIES = 5
"""At queuing a job whose bytes we had already, while others remove them."""


class Jobs:
    """Jobs of one service."""

    def __init__(
        self,
        settings: Settings,
        records: Records,
        files: FileRecords,
        store: Storage,
        engine: Engine,
        control: Control,
    ) -> None:
        self._settings, self._records, self._files = settings, records, files
        self._store, self._engine, self._control = store, engine, control
        self._reading = asyncio.Semaphore(READ_AT_ONCE)

    async def plan(self, request: Request) -> Plan:
        """What a job would do with the form's model; its bytes are gone afterwards."""
        form = await read_form(request, self._store, self._settings.limits)
        try:
            async with self._reading:
                intake = await asyncio.to_thread(self._take_in, form, wishes(form))
        finally:
            await asyncio.to_thread(self._store.delete, *form.paths())
        return intake.plan

    async def submit(self, request: Request, caller: Caller) -> Job:
        """Take a form's model and config, refuse what cannot work, queue the rest."""
        form = await read_form(request, self._store, self._settings.limits)
        kept: Collection[str] = ()
        try:
            wished = wishes(form)
            async with self._reading:
                intake = await asyncio.to_thread(self._take_in, form, wished)
            job, kept = await asyncio.to_thread(self._accept, intake, wished, caller)
        except DatabaseFailed:
            kept = form.paths()  # the job may have been accepted; if not, the sweep finds them
            raise
        finally:
            brought = [path for path in form.paths() if path not in kept]
            await asyncio.to_thread(self._store.delete, *brought)
        return job

    async def cancel(self, owner: str, job_id: str) -> Job:
        """Stop a job that has not ended."""
        await asyncio.to_thread(self._records.get, job_id, owner)
        return await self._control.cancel(job_id)

    async def retry(self, owner: str, job_id: str) -> Job:
        """Have a failed or cancelled job go on over the parts that exist."""
        await asyncio.to_thread(self._records.get, job_id, owner)
        return await self._control.retry(job_id)

    def delete(self, owner: str, job_id: str) -> None:
        """Remove an ended job and its bytes."""
        self._records.get(job_id, owner)
        self._control.delete(job_id)

    def get(self, owner: str, job_id: str) -> Job:
        """One job."""
        return self._records.get(job_id, owner)

    def page(self, owner: str, limit: int, cursor: str | None) -> JobPage:
        """An owner's jobs, newest first."""
        before = None if cursor is None else _unsealed(cursor)
        found = self._records.page(limit + 1, before, owner)
        items = tuple(found[:limit])
        return JobPage(items=items, next_cursor=_sealed(items[-1].id) if found[limit:] else None)

    def report(self, owner: str, job_id: str) -> Report:
        """The account of a job that succeeded."""
        self._succeeded(owner, job_id, "report")
        return Report.model_validate_json(bytes(self._store.read(report_path(job_folder(job_id)))))

    def artifact(self, owner: str, job_id: str, name: str | None) -> StoredDownload:
        """A file of a job's artifact; None asks for the only one, or the index of several.

        Raises:
            Conflict: the job has not succeeded.
            NotFound: the artifact has no such file.
        """
        job = self._succeeded(owner, job_id, "artifact")
        digests = self.report(owner, job_id).artifact_sha256
        if name is None:
            name = next((known for known in digests if known.endswith(".json")), min(digests))
        if name not in digests:
            raise NotFound(f"the artifact has no file {name[:64]!r}; it has {', '.join(digests)}")
        stem = job.model_name.removesuffix(".safetensors")
        shown = f"{stem}-palettized.safetensors" if len(digests) == 1 else name
        return StoredDownload(artifact_path(job_folder(job_id), name), digests[name], shown)

    def _succeeded(self, owner: str, job_id: str, what: str) -> Job:
        job = self._records.get(job_id, owner)
        if job.state != "succeeded":
            raise Conflict(f"the job is {job.state}; its {what} is there once it has succeeded")
        return job

    def _take_in(self, form: Form, wished: Wishes) -> Intake:
        preset = form.texts.get("preset")
        config = chosen_config(
            form.texts.get("config"), None if preset is None else preset.decode(errors="replace")
        )
        beside = form.files["sensitivities"]
        return take_in(
            config,
            Upload(self._store, form.files["model"]),
            Upload(self._store, beside) if beside else None,
            self._settings.limits,
            strict=wished.strict,
        )

    def _accept(
        self, intake: Intake, wished: Wishes, caller: Caller
    ) -> tuple[Job, Collection[str]]:
        """Queue a job; and where the files lie that it needs."""
        for _ in range(ACCEPT_TRIES - 1):
            try:
                return self._queue(intake, wished, caller)
            except FileGone:
                continue  # bytes that we had already were removed meanwhile
        return self._queue(intake, wished, caller)

    def _queue(self, intake: Intake, wished: Wishes, caller: Caller) -> tuple[Job, Collection[str]]:
        """Store everything the job needs, then its row: a row means that nothing is missing."""
        job_id = str(_time_ordered_id())
        prefix = job_folder(job_id)
        files = self._kept(intake.files())
        checkpoint = _at(intake.checkpoint, files)
        sensitivities = intake.sensitivities and _at(intake.sensitivities, files)
        tasks = cut(
            intake.plan,
            checkpoint,
            source_url=self._store.url,
            store_url=self._store.url,
            parts_prefix=f"{prefix}/parts",
            task_bytes=self._settings.task_bytes,
            digests=self._reuses(wished),
            sensitivities=sensitivities,
        )
        total = Progress(
            tensors_total=len(intake.plan.palettized()),
            bytes_total=sum(task.size_bytes for task in tasks),
        )
        deadline = wished.deadline_s and datetime.now(UTC) + timedelta(seconds=wished.deadline_s)
        try:
            asked = JobRequest(config=intake.config, checkpoint=checkpoint, plan=intake.plan)
            write_job(self._store, prefix, asked, tasks)
            job = self._records.add(
                job_id,
                checkpoint.files[0].name,
                checkpoint.tensor_bytes(),
                total,
                owner=caller.owner,
                priority=wished.priority,
                deadline_at=deadline or None,
                request_sha256=request_sha256(intake),
                reuse=self._reuses(wished),
                files=list(files.values()),
                enqueue=self._engine.enqueue,
                told=[planned(intake.plan)],
            )
        except DatabaseFailed:
            raise  # as above
        except BaseException:
            self._store.delete_folder(prefix)
            raise
        return job, {file.path for file in files.values()}

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


def _sealed(job_id: str) -> str:
    return base64.urlsafe_b64encode(job_id.encode()).decode()


def _unsealed(cursor: str) -> str:
    try:
        return str(uuid.UUID(base64.urlsafe_b64decode(cursor.encode()).decode()))
    except (binascii.Error, ValueError) as error:
        raise BadInput("the cursor is not one this server gave; start again without it") from error
