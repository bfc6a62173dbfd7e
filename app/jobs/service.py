"""Accept jobs and look after them: what the endpoints ask for."""

import asyncio
import hashlib
from collections.abc import Collection, Sequence

from starlette.requests import Request

from app.compression.assemble import artifact_path, report_path
from app.compression.job import job_folder
from app.configs.chosen import chosen_config
from app.errors import Conflict, DatabaseFailed, NotFound
from app.idempotency import KeyedRequest, keyed
from app.jobs.accept import Acceptance, Accepted
from app.jobs.control import Control
from app.jobs.download import StoredDownload
from app.jobs.engine import Engine
from app.jobs.records import Records
from app.jobs.request import Wishes, wishes
from app.jobs.rows import ID
from app.keys.caller import Caller
from app.paging import sealed_key, unsealed_key
from app.planning.intake import Intake, Upload, take_in
from app.settings import Limits, Settings
from app.storage import Storage
from app.uploads.multipart import FILE_FIELDS, Form, read_form
from app.uploads.records import FileRecords
from schemas.jobs import Job, JobPage
from schemas.plan import Plan
from schemas.report import Report

READ_AT_ONCE = 3
"""Uploads read and planned at once; the others wait without holding a thread."""


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
        self._store, self._control = store, control
        self._acceptance = Acceptance(settings, records, files, store, engine)
        self._reading = asyncio.Semaphore(READ_AT_ONCE)

    async def plan(self, request: Request, caller: Caller) -> Plan:
        """What a job would do with the form's model; its bytes are gone afterwards."""
        form = await read_form(request, self._store, self._limits(caller))
        try:
            async with self._reading:
                intake = await asyncio.to_thread(self._take_in, form, wishes(form))
        finally:
            await asyncio.to_thread(self._store.delete, *form.paths())
        return intake.plan

    async def submit(self, request: Request, caller: Caller, key: str | None) -> Accepted:
        """Take a form's model and config, refuse what cannot work, queue the rest.

        Raises:
            IdempotencyConflict: the key was sent with another request before.
            OverQuota: the caller has too many jobs or bytes.
        """
        if key is None:  # else it may be a job that there is already
            await asyncio.to_thread(self._acceptance.check_room, caller)
        form = await read_form(request, self._store, self._limits(caller))
        kept: Collection[str] = ()
        try:
            wished = wishes(form)
            accepted = await self._accepted(form, wished, caller, keyed(key, *_content(form)))
            kept = accepted.kept
        except DatabaseFailed:
            kept = form.paths()  # the job may have been accepted; if not, the sweep finds them
            raise
        finally:
            brought = [path for path in form.paths() if path not in kept]
            await asyncio.to_thread(self._store.delete, *brought)
        return accepted

    async def _accepted(
        self, form: Form, wished: Wishes, caller: Caller, asked: KeyedRequest | None
    ) -> Accepted:
        before = await asyncio.to_thread(self._acceptance.replayed, caller, asked)
        if before is not None:
            return before
        async with self._reading:
            intake = await asyncio.to_thread(self._take_in, form, wished)
        return await asyncio.to_thread(self._acceptance.accept, intake, wished, caller, asked)

    async def cancel(self, owner: str, job_id: str) -> Job:
        """Stop a job that has not ended."""
        await asyncio.to_thread(self._records.get, job_id, owner)
        return await self._control.cancel(job_id)

    async def retry(self, caller: Caller, job_id: str) -> Job:
        """Have a failed or cancelled job go on over the parts that exist."""
        await asyncio.to_thread(self._records.get, job_id, caller.owner)
        return await self._control.retry(job_id, caller.limits)

    def delete(self, owner: str, job_id: str) -> None:
        """Remove an ended job and its bytes."""
        self._records.get(job_id, owner)
        self._control.delete(job_id)

    def get(self, owner: str, job_id: str) -> Job:
        """One job."""
        return self._records.get(job_id, owner)

    def page(self, owner: str, limit: int, cursor: str | None) -> JobPage:
        """An owner's jobs, newest first."""
        found = self._records.page(limit + 1, unsealed_key(cursor, ID), owner)
        items = tuple(found[:limit])
        return JobPage(items=items, next_cursor=sealed_key(items[-1].id) if found[limit:] else None)

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

    def _limits(self, caller: Caller) -> Limits:
        """The service's, with the caller's of one upload."""
        limits, most = self._settings.limits, caller.limits.upload_bytes
        return limits if most is None else limits.model_copy(update={"upload_bytes": most})

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


def _content(form: Form) -> Sequence[object]:
    """All that a form says, by which it is told from others."""
    files = [(name, file.name, file.sha256) for name in FILE_FIELDS for file in form.files[name]]
    texts = {name: hashlib.sha256(text).hexdigest() for name, text in form.texts.items()}
    return files, texts
