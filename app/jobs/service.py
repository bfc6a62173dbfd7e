"""Operations on jobs behind the endpoints."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import suppress

from starlette.requests import Request

from palettery.app.artifacts.export.formats import FORMATS
from palettery.app.compression.job_folder import (
    artifact_path,
    config_path,
    export_path,
    job_folder,
    report_documents,
    report_path,
    statistics_path,
)
from palettery.app.compression.statistics import find_statistics
from palettery.app.dashboard.report_page import report_page
from palettery.app.database.job_lookup import ID
from palettery.app.errors import Conflict, DatabaseFailed, NotFound, ObjectMissing
from palettery.app.execution.engine import Engine
from palettery.app.files.repository import FileRepository
from palettery.app.http.caller import Caller
from palettery.app.http.downloads import StoredDownload
from palettery.app.http.idempotency import keyed_request
from palettery.app.http.pagination import decode_key_cursor, encode_key_cursor
from palettery.app.jobs.lifecycle import JobLifecycle
from palettery.app.jobs.preparation import JobSpec, plan
from palettery.app.jobs.report_csv import report_csv
from palettery.app.jobs.repository import JobRepository
from palettery.app.jobs.request_parsing import ParsedRequest, RequestParser
from palettery.app.jobs.result_files import ResultFiles, read_result_files
from palettery.app.jobs.submission import JobSubmitter, SubmittedJob
from palettery.app.jobs.target_plans import TargetPlanner
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.settings import Settings
from palettery.app.storage.base import Storage
from palettery.app.storage.spooled_content import Content
from palettery.app.webhooks.addresses import parse_webhook_url
from palettery.schemas.job_options import JobOptions
from palettery.schemas.jobs import Job, JobPage, JobState
from palettery.schemas.statistics import TensorStatistics

CACHED_JOBS = 1_000
"""Jobs whose result files are cached."""


class JobService:
    """Submits, looks up, changes and deletes jobs, and returns their results."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobRepository,
        files: FileRepository,
        store: Storage,
        engine: Engine,
        lifecycle: JobLifecycle,
        requests: RequestParser,
        documents: DocumentPool,
    ) -> None:
        self._settings, self._jobs = settings, jobs
        self._store, self._lifecycle, self._requests = store, lifecycle, requests
        self._documents = documents
        self._submitter = JobSubmitter(settings, jobs, files, store, engine, documents)
        self._target_planner = TargetPlanner(settings, jobs, store, documents, self._submitter)
        # A download in ranges looks them up for each range; those of an ended job never change.
        self._result_files: OrderedDict[str, ResultFiles] = OrderedDict()

    async def plan(self, request: Request, caller: Caller) -> Content | Job:
        """Return what a job would do, as JSON of `PlannedJob`; uploaded files are deleted then.

        For a target of a model without scores, return the job that computes them.
        """
        parsed = await self._requests.parse(request, caller)
        try:
            await asyncio.to_thread(self._check, caller.owner, parsed.options)
            spec = await self._requests.resolve(parsed, caller)
            client = DocumentClient(caller.owner, request)
            if parsed.options.target is not None:
                return await self._target_planner.plan(spec, caller, client)
            return await self._documents.document(
                client,
                spec.size_bytes,
                plan,
                spec,
                self._store.url,
                self._settings.limits,
            )
        finally:
            await asyncio.to_thread(self._store.delete, *parsed.uploaded_paths())

    async def submit(self, request: Request, caller: Caller, key: str | None) -> SubmittedJob:
        """Queue the job of a request, after checking it.

        Raises:
            IdempotencyConflict: the key was sent with another request before.
            OverQuota: the caller has too many jobs or bytes.
        """
        if key is None:  # with a key, the request may be for a job that exists
            await asyncio.to_thread(self._submitter.check_room, caller)
        parsed = await self._requests.parse(request, caller)
        needed: Collection[str] = ()
        try:
            client = DocumentClient(caller.owner, request)
            submitted = await self._submit_parsed(parsed, caller, key, client)
            needed = submitted.file_paths
        except (DatabaseFailed, asyncio.CancelledError):
            needed = parsed.uploaded_paths()  # the job may be queued; if not, expiry removes them
            raise
        finally:
            unneeded = [path for path in parsed.uploaded_paths() if path not in needed]
            await asyncio.to_thread(self._store.delete, *unneeded)
        return submitted

    async def _submit_parsed(
        self, parsed: ParsedRequest, caller: Caller, key: str | None, client: DocumentClient
    ) -> SubmittedJob:
        keyed = keyed_request(key, *parsed.identity())
        replayed = await asyncio.to_thread(self._submitter.replayed, caller, keyed)
        if replayed is not None:
            return replayed
        await asyncio.to_thread(self._check, caller.owner, parsed.options)

        async def look_up() -> JobSpec:
            return await self._requests.resolve(parsed, caller)

        return await self._submitter.submit(look_up, caller, keyed, client)

    async def cancel(self, owner: str, job_id: str) -> Job:
        """Cancel a job that has not ended."""
        await asyncio.to_thread(self._jobs.get, job_id, owner)
        return await self._lifecycle.cancel(job_id)

    async def retry(self, caller: Caller, job_id: str) -> Job:
        """Queue a failed or cancelled job again; finished parts are not computed again."""
        await asyncio.to_thread(self._jobs.get, job_id, caller.owner)
        return await self._lifecycle.retry(job_id, caller.limits)

    def delete(self, owner: str, job_id: str) -> None:
        """Delete an ended job and its files."""
        self._jobs.get(job_id, owner)
        self._lifecycle.delete(job_id)

    def get(self, owner: str, job_id: str) -> Job:
        """Return a job."""
        return self._jobs.get(job_id, owner)

    async def look_up(self, owner: str, job_id: str) -> Job:
        """Return a job with little overhead, for clients that poll."""
        return await self._jobs.look_up(job_id, owner)

    def page(
        self,
        owner: str,
        limit: int,
        cursor: str | None,
        states: Collection[JobState] = (),
        model_id: str | None = None,
    ) -> JobPage:
        """Return an owner's jobs, newest first; `states` and `model_id` filter them."""
        before = decode_key_cursor(cursor, ID)
        jobs = self._jobs.page(limit + 1, before, owner, states, model_id)
        items = tuple(jobs[:limit])
        return JobPage(
            items=items, next_cursor=encode_key_cursor(items[-1].id) if jobs[limit:] else None
        )

    def config_path(self, owner: str, job_id: str) -> str:
        """Return the path in the store of a job's config, JSON of `KMeansPalettizerConfig`.

        Raises:
            NotFound: there is no such job, it has not chosen its config yet, or it is from before
                configs were stored.
        """
        job = self.get(owner, job_id)
        if job.kind == "scores" or (job.target and job.predicted_size_bytes is None):
            raise NotFound(f"job {job_id} has chosen no config for its target")
        path = config_path(job_folder(job_id))
        if not self._store.exists(path):
            raise NotFound(f"the config of job {job_id} was not stored; its report has every spec")
        return path

    def report_path(self, owner: str, job_id: str) -> str:
        """Return the path in the store of the report of a job, JSON of `Report`.

        Raises:
            Conflict: the job has not succeeded.
        """
        self._job_with_artifact(owner, job_id, "report")
        return report_path(job_folder(job_id))

    async def report_csv(self, client: DocumentClient, job_id: str) -> Content:
        """Return the report as CSV.

        Raises:
            Conflict: the job has not succeeded.
        """
        path = await asyncio.to_thread(self.report_path, client.owner, job_id)
        size_bytes = await asyncio.to_thread(self._store.size_bytes, path)
        return await self._documents.document(client, size_bytes, report_csv, self._store.url, path)

    def statistics(self, owner: str, job_id: str, tensor: str) -> TensorStatistics:
        """Return the statistics of a palettized tensor.

        Raises:
            Conflict: the job has not succeeded.
            NotFound: there is no tensor of that name, or it was not palettized.
        """
        self._job_with_artifact(owner, job_id, "statistics")
        path, statistics = statistics_path(job_folder(job_id)), None
        with suppress(ObjectMissing):  # of a job from before statistics were stored
            statistics = find_statistics(self._store, path, tensor)
        if statistics is None:
            raise NotFound(
                f"there are no statistics of a tensor {tensor[:64]!r}: the job's report lists its "
                "tensors, and which of them were palettized"
            )
        return statistics

    def report_html(self, owner: str, job_id: str) -> Iterator[bytes]:
        """Return the report with all statistics as one HTML page, in pieces.

        Raises:
            Conflict: the job has not succeeded.
        """
        job = self._job_with_artifact(owner, job_id, "report")
        documents = {"job": [job.model_dump_json().encode()]}
        return report_page(documents | report_documents(self._store, job_folder(job_id)))

    async def artifact(
        self, client: DocumentClient, job_id: str, name: str | None
    ) -> StoredDownload:
        """Return a file of a job's artifact; without a name the only file, or the index of several.

        Raises:
            Conflict: the job has not succeeded.
            NotFound: the artifact has no such file.
        """
        job = await asyncio.to_thread(self._job_with_artifact, client.owner, job_id, "artifact")
        digests = (await self._files_of(client, job_id)).artifact
        if name is None:
            name = next((each for each in digests if each.endswith(".json")), min(digests))
        if name not in digests:
            raise NotFound(f"the artifact has no file {name[:64]!r}; it has {', '.join(digests)}")
        saved_as = f"{_stem(job)}-palettized.safetensors" if len(digests) == 1 else name
        folder = job_folder(job_id)
        return StoredDownload(artifact_path(folder, name), digests[name], saved_as, folder)

    async def export(self, client: DocumentClient, job_id: str, to: str) -> StoredDownload:
        """Return the artifact in another format.

        Raises:
            Conflict: the job has not succeeded.
            NotFound: the job did not export this format.
        """
        job = await asyncio.to_thread(self._job_with_artifact, client.owner, job_id, "artifact")
        exports = (await self._files_of(client, job_id)).exports
        for each in exports:
            if each.format == to:
                saved_as = f"{_stem(job)}-{to}{FORMATS[each.format].suffix}"
                folder = job_folder(job_id)
                return StoredDownload(export_path(folder, to), each.sha256, saved_as, folder)
        formats = ", ".join(each.format for each in exports) or "none; submit it with `formats`"
        raise NotFound(f"the job has no format {to[:64]!r} of its artifact; it has {formats}")

    async def _files_of(self, client: DocumentClient, job_id: str) -> ResultFiles:
        files = self._result_files.get(job_id)
        if files is None:
            path, url = report_path(job_folder(job_id)), self._store.url
            size_bytes = await asyncio.to_thread(self._store.size_bytes, path)
            files = await self._documents.run(client, size_bytes, read_result_files, url, job_id)
            self._result_files[job_id] = files
            if len(self._result_files) > CACHED_JOBS:
                self._result_files.popitem(last=False)
        return files

    def _check(self, owner: str, options: JobOptions) -> None:
        if options.webhook_url is not None:
            parse_webhook_url(options.webhook_url, private=self._settings.webhook_private)
        if options.calibration_id is not None:
            state = self._jobs.get(options.calibration_id, owner, "calibration").state
            if state != "succeeded":
                raise Conflict(f"the calibration is {state}; jobs can use it once it has succeeded")

    def _job_with_artifact(self, owner: str, job_id: str, what: str) -> Job:
        """Return a job with an artifact: it has succeeded, or failed only to reach its quality."""
        job = self._jobs.get(job_id, owner)
        if job.kind == "scores":
            raise Conflict(f"the job computes the scores of a model, so it has no {what}")
        if not job.has_artifact:
            raise Conflict(f"the job is {job.state}; its {what} is there once it has succeeded")
        return job


def _stem(job: Job) -> str:
    return job.model_name.removesuffix(".safetensors")
