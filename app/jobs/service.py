"""Accept jobs and look after them: what the endpoints ask for."""

import asyncio
import base64
import binascii
import os
import time
import uuid

from starlette.requests import Request

from app.compression.job import cancel_path, write_job
from app.configs import chosen_config
from app.errors import BadInput, Conflict, InvalidUpload, NotFound
from app.jobs.download import StoredDownload
from app.jobs.records import Records
from app.jobs.workflow import Engine
from app.planning.intake import Intake, Upload, take_in
from app.planning.tasks import cut
from app.settings import Settings
from app.storage import Storage
from app.uploads.multipart import Form, read_form
from schemas.checkpoint import Checkpoint
from schemas.jobs import Job, JobPage, Progress
from schemas.plan import Plan
from schemas.report import Report

READ_AT_ONCE = 3
"""Uploads read and planned at once; the others wait without holding a thread."""


class Jobs:
    """Jobs of one service."""

    def __init__(
        self, settings: Settings, records: Records, store: Storage, engine: Engine
    ) -> None:
        self._settings, self._records = settings, records
        self._store, self._engine = store, engine
        self._reading = asyncio.Semaphore(READ_AT_ONCE)

    async def plan(self, request: Request) -> Plan:
        """What a job would do with the form's model; its bytes are gone afterwards."""
        form = await read_form(request, self._store, self._settings.limits)
        try:
            async with self._reading:
                intake = await asyncio.to_thread(self._take_in, form)
        finally:
            await asyncio.to_thread(self._store.delete, *form.paths())
        return intake.plan

    async def submit(self, request: Request) -> Job:
        """Take a form's model and config, refuse what cannot work, queue the rest."""
        form = await read_form(request, self._store, self._settings.limits)
        try:
            async with self._reading:
                intake = await asyncio.to_thread(self._take_in, form)
            job = await asyncio.to_thread(self._accept, intake)
        finally:
            await asyncio.to_thread(self._store.delete, *form.paths())
        await self._engine.enqueue(job.id)
        return job

    async def cancel(self, job_id: str) -> Job:
        """Stop a job that has not ended.

        Raises:
            Conflict: it has.
        """
        job = await asyncio.to_thread(self._records.get, job_id)
        if not await asyncio.to_thread(self._records.cancel, job_id):
            job = await asyncio.to_thread(self._records.get, job_id)
            raise Conflict(f"the job is {job.state}; only queued and running jobs can be cancelled")
        await asyncio.to_thread(self._store.write, cancel_path(f"jobs/{job_id}"), b"")
        await self._engine.cancel(job_id)
        return await asyncio.to_thread(self._records.get, job_id)

    def get(self, job_id: str) -> Job:
        """One job."""
        return self._records.get(job_id)

    def page(self, limit: int, cursor: str | None) -> JobPage:
        """Jobs, newest first."""
        found = self._records.page(limit + 1, None if cursor is None else _unsealed(cursor))
        items = tuple(found[:limit])
        return JobPage(items=items, next_cursor=_sealed(items[-1].id) if found[limit:] else None)

    def report(self, job_id: str) -> Report:
        """The account of a job that succeeded."""
        self._succeeded(job_id, "report")
        return Report.model_validate_json(bytes(self._store.read(f"jobs/{job_id}/report.json")))

    def artifact(self, job_id: str, name: str | None) -> StoredDownload:
        """A file of a job's artifact; None asks for the only one, or the index of several.

        Raises:
            Conflict: the job has not succeeded.
            NotFound: the artifact has no such file.
        """
        job = self._succeeded(job_id, "artifact")
        digests = self.report(job_id).artifact_sha256
        if name is None:
            name = next((known for known in digests if known.endswith(".json")), min(digests))
        if name not in digests:
            raise NotFound(f"the artifact has no file {name[:64]!r}; it has {', '.join(digests)}")
        stem = job.model_name.removesuffix(".safetensors")
        shown = f"{stem}-palettized.safetensors" if len(digests) == 1 else name
        return StoredDownload(f"jobs/{job_id}/artifact/{name}", digests[name], shown)

    def _succeeded(self, job_id: str, what: str) -> Job:
        job = self._records.get(job_id)
        if job.state != "succeeded":
            raise Conflict(f"the job is {job.state}; its {what} is there once it has succeeded")
        return job

    def _take_in(self, form: Form) -> Intake:
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
            strict=_is_true(form, "strict"),
        )

    def _accept(self, intake: Intake) -> Job:
        """Store everything the job needs, then its row: a row means that nothing is missing."""
        job_id = str(_time_ordered_id())
        prefix = f"jobs/{job_id}"
        plan, checkpoint = intake.plan, _by_content(intake.checkpoint)
        sensitivities = intake.sensitivities and _by_content(intake.sensitivities)
        tasks = cut(
            plan,
            checkpoint,
            source_url=self._store.url,
            store_url=self._store.url,
            parts_prefix=f"{prefix}/parts",
            task_bytes=self._settings.task_bytes,
            cancel_path=cancel_path(prefix),
            sensitivities=sensitivities,
        )
        total = Progress(
            tensors_total=len(plan.palettized()), bytes_total=sum(task.size_bytes for task in tasks)
        )
        try:
            write_job(self._store, prefix, intake.config, checkpoint, plan, tasks)
            self._keep(intake.checkpoint, checkpoint)
            if intake.sensitivities and sensitivities:
                self._keep(intake.sensitivities, sensitivities)
            return self._records.add(
                job_id, checkpoint.files[0].name, checkpoint.tensor_bytes(), total
            )
        except BaseException:
            self._store.delete_folder(prefix)
            raise

    def _keep(self, uploaded: Checkpoint, kept: Checkpoint) -> None:
        """Move files from where they came in to where they are kept."""
        for old, new in zip(uploaded.files, kept.files, strict=True):
            self._store.move(old.path, new.path)


def _by_content(checkpoint: Checkpoint) -> Checkpoint:
    """With files where they will lie: by their digests, so that the same bytes are kept once."""
    files = [file.model_copy(update={"path": f"blobs/{file.sha256}"}) for file in checkpoint.files]
    return checkpoint.model_copy(update={"files": tuple(files)})


def _is_true(form: Form, name: str) -> bool:
    text = form.texts.get(name, b"false")
    if text not in (b"true", b"false"):
        got = text[:64].decode(errors="replace")
        raise InvalidUpload(f"the field {name!r} is {got!r}; send true or false")
    return text == b"true"


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
