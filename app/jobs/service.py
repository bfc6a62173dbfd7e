"""Accept jobs and look after them: what the endpoints ask for."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import suppress

from starlette.requests import Request

from palettery.app.artifacts.export.formats import FORMATS
from palettery.app.compression.assemble import (
    artifact_path,
    export_path,
    report_path,
    statistics_path,
)
from palettery.app.compression.job_folder import config_path, job_folder, report_documents
from palettery.app.compression.statistics import find
from palettery.app.dashboard.report_page import report_page
from palettery.app.errors import Conflict, DatabaseFailed, NotFound, ObjectMissing
from palettery.app.execution.engine import Engine
from palettery.app.files.repository import FileRepository
from palettery.app.http.caller import Caller
from palettery.app.http.downloads import StoredDownload
from palettery.app.http.idempotency import keyed
from palettery.app.http.pagination import sealed_key, unsealed_key
from palettery.app.jobs.job_rows import ID
from palettery.app.jobs.lifecycle import JobLifecycle
from palettery.app.jobs.options import JobOptions
from palettery.app.jobs.preparation import JobSpec, plan
from palettery.app.jobs.report_csv import report_csv
from palettery.app.jobs.repository import JobRepository
from palettery.app.jobs.request_parsing import ParsedRequest, RequestParser
from palettery.app.jobs.result_files import ResultFiles, read_made_files
from palettery.app.jobs.submission import JobSubmitter, SubmittedJob
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.settings import Settings
from palettery.app.storage.base import Storage
from palettery.app.storage.spooled_content import Content
from palettery.app.webhooks.addresses import parse_webhook_url
from palettery.schemas.jobs import Job, JobPage, JobState
from palettery.schemas.statistics import TensorStatistics

DOWNLOADS = 1_000
"""Artifacts whose digests are held, for those who fetch them in ranges."""


class JobService:
    """Jobs of one service."""

    def __init__(
        self,
        settings: Settings,
        records: JobRepository,
        files: FileRepository,
        store: Storage,
        engine: Engine,
        control: JobLifecycle,
        orders: RequestParser,
        documents: DocumentPool,
    ) -> None:
        self._settings, self._records = settings, records
        self._store, self._control, self._orders = store, control, orders
        self._documents = documents
        self._acceptance = JobSubmitter(settings, records, files, store, engine, documents)
        # A download in ranges asks for each; what has succeeded never changes.
        self._made: OrderedDict[str, ResultFiles] = OrderedDict()

    async def plan(self, request: Request, caller: Caller) -> Content:
        """What a job would do, as JSON of `Plan`; what came with the request is gone afterwards."""
        received = await self._orders.receive(request, caller)
        try:
            self._check(received.wishes())
            order = await self._orders.order(received, caller)
            return await self._documents.document(
                DocumentClient(caller.owner, request),
                order.size_bytes,
                plan,
                order,
                self._store.url,
                self._settings.limits,
            )
        finally:
            await asyncio.to_thread(self._store.delete, *received.brought())

    async def submit(self, request: Request, caller: Caller, key: str | None) -> SubmittedJob:
        """Take a request in, refuse what cannot work, queue the rest.

        Raises:
            IdempotencyConflict: the key was sent with another request before.
            OverQuota: the caller has too many jobs or bytes.
        """
        if key is None:  # else it may be a job that there is already
            await asyncio.to_thread(self._acceptance.check_room, caller)
        received = await self._orders.receive(request, caller)
        kept: Collection[str] = ()
        try:
            client = DocumentClient(caller.owner, request)
            accepted = await self._accepted(received, caller, key, client)
            kept = accepted.kept
        except (DatabaseFailed, asyncio.CancelledError):
            kept = received.brought()  # the job may have been accepted; if not, it is swept
            raise
        finally:
            brought = [path for path in received.brought() if path not in kept]
            await asyncio.to_thread(self._store.delete, *brought)
        return accepted

    async def _accepted(
        self, received: ParsedRequest, caller: Caller, key: str | None, client: DocumentClient
    ) -> SubmittedJob:
        wished, asked = received.wishes(), keyed(key, *received.content())
        before = await asyncio.to_thread(self._acceptance.replayed, caller, asked)
        if before is not None:
            return before
        self._check(wished)

        async def look_up() -> JobSpec:
            return await self._orders.order(received, caller)

        return await self._acceptance.accept(look_up, wished, caller, asked, client)

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

    async def look_up(self, owner: str, job_id: str) -> Job:
        """The same, for those who ask over and over."""
        return await self._records.look_up(job_id, owner)

    def page(
        self,
        owner: str,
        limit: int,
        cursor: str | None,
        states: Collection[JobState] = (),
        model_id: str | None = None,
    ) -> JobPage:
        """An owner's jobs, newest first; those in some states or of one model alone, if named."""
        before = unsealed_key(cursor, ID)
        found = self._records.page(limit + 1, before, owner, states, model_id)
        items = tuple(found[:limit])
        return JobPage(items=items, next_cursor=sealed_key(items[-1].id) if found[limit:] else None)

    def config(self, owner: str, job_id: str) -> str:
        """Where the config of a job lies, as JSON of `KMeansPalettizerConfig`.

        Raises:
            NotFound: there is no such job, or it is from before configs were kept.
        """
        self.get(owner, job_id)
        path = config_path(job_folder(job_id))
        if not self._store.exists(path):
            raise NotFound(f"the config of job {job_id} was not kept; its report has every spec")
        return path

    def report(self, owner: str, job_id: str) -> str:
        """Where the account of a job that succeeded lies, as JSON of `Report`.

        Raises:
            Conflict: the job has not succeeded.
        """
        self._succeeded(owner, job_id, "report")
        return report_path(job_folder(job_id))

    def report_csv(self, owner: str, job_id: str) -> Iterator[bytes]:
        """The same as CSV, in pieces.

        Raises:
            Conflict: the job has not succeeded.
        """
        return report_csv(self._store, self.report(owner, job_id))

    def statistics(self, owner: str, job_id: str, tensor: str) -> TensorStatistics:
        """What palettizing did inside a tensor.

        Raises:
            Conflict: the job has not succeeded.
            NotFound: the tensor was not palettized, or there is none of that name.
        """
        self._succeeded(owner, job_id, "statistics")
        path, found = statistics_path(job_folder(job_id)), None
        with suppress(ObjectMissing):  # of a job from before there were any
            found = find(self._store, path, tensor)
        if found is None:
            raise NotFound(
                f"there are no statistics of a tensor {tensor[:64]!r}: the job's report tells the "
                "names of its tensors, and which were palettized"
            )
        return found

    def report_html(self, owner: str, job_id: str) -> Iterator[bytes]:
        """The report and all statistics as a page of their own, in pieces.

        Raises:
            Conflict: the job has not succeeded.
        """
        job = self._succeeded(owner, job_id, "report")
        told = {"job": [job.model_dump_json().encode()]}
        return report_page(told | report_documents(self._store, job_folder(job_id)))

    async def artifact(
        self, client: DocumentClient, job_id: str, name: str | None
    ) -> StoredDownload:
        """A file of a job's artifact; None asks for the only one, or the index of several.

        Raises:
            Conflict: the job has not succeeded.
            NotFound: the artifact has no such file.
        """
        job = await asyncio.to_thread(self._succeeded, client.owner, job_id, "artifact")
        digests = (await self._made_files(client, job_id)).artifact
        if name is None:
            name = next((known for known in digests if known.endswith(".json")), min(digests))
        if name not in digests:
            raise NotFound(f"the artifact has no file {name[:64]!r}; it has {', '.join(digests)}")
        shown = f"{_stem(job)}-palettized.safetensors" if len(digests) == 1 else name
        folder = job_folder(job_id)
        return StoredDownload(artifact_path(folder, name), digests[name], shown, folder)

    async def export(self, client: DocumentClient, job_id: str, to: str) -> StoredDownload:
        """Another form of a job's artifact.

        Raises:
            Conflict: the job has not succeeded.
            NotFound: it was not asked for that form.
        """
        job = await asyncio.to_thread(self._succeeded, client.owner, job_id, "artifact")
        exports = (await self._made_files(client, job_id)).exports
        for each in exports:
            if each.format == to:
                name = f"{_stem(job)}-{to}{FORMATS[each.format].suffix}"
                folder = job_folder(job_id)
                return StoredDownload(export_path(folder, to), each.sha256, name, folder)
        made = ", ".join(each.format for each in exports) or "none; submit it with `formats`"
        raise NotFound(f"the job has no form {to[:64]!r} of its artifact; it has {made}")

    async def _made_files(self, client: DocumentClient, job_id: str) -> ResultFiles:
        made = self._made.get(job_id)
        if made is None:
            path, url = report_path(job_folder(job_id)), self._store.url
            size_bytes = await asyncio.to_thread(self._store.size_bytes, path)
            made = await self._documents.run(client, size_bytes, read_made_files, url, job_id)
            self._made[job_id] = made
            if len(self._made) > DOWNLOADS:
                self._made.popitem(last=False)
        return made

    def _check(self, wished: JobOptions) -> None:
        if wished.webhook_url is not None:
            parse_webhook_url(wished.webhook_url, private=self._settings.webhook_private)

    def _succeeded(self, owner: str, job_id: str, what: str) -> Job:
        job = self._records.get(job_id, owner)
        if job.state != "succeeded":
            raise Conflict(f"the job is {job.state}; its {what} is there once it has succeeded")
        return job


def _stem(job: Job) -> str:
    return job.model_name.removesuffix(".safetensors")
