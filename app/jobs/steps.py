"""Steps of a job's workflow. Each may be interrupted anywhere and run again."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from palettery.app.compression.dispatch import describe
from palettery.app.compression.job_folder import (
    discard_artifact,
    job_folder,
    published_artifact,
    read_tasks,
    report_path,
    stop_path,
)
from palettery.app.errors import (
    ERRORS,
    Cancelled,
    DatabaseFailed,
    NotFound,
    PaletteryError,
    problem,
)
from palettery.app.events import log_messages as lines
from palettery.app.events.log_messages import LogMessage
from palettery.app.events.repository import EventRepository
from palettery.app.execution.fair_slots import SlotRequest
from palettery.app.execution.fanout import OnDied, Workers
from palettery.app.jobs.progress_counter import ProgressCounter, reused_tensors
from palettery.app.jobs.repository import JobRepository
from palettery.app.jobs.result_reuse import ResultReuse
from palettery.app.observability.metrics import Metrics
from palettery.app.settings import Settings
from palettery.app.storage.base import Storage
from palettery.schemas.exports import Exported
from palettery.schemas.jobs import ENDED, Job, Progress
from palettery.schemas.report import Report
from palettery.schemas.tasks import (
    Answer,
    CompressionTask,
    ExportTask,
    FinishTask,
    GatherTask,
    JobTask,
    Layout,
    Published,
    PublishTask,
    Task,
    VerifyTask,
    WriteTask,
)

SMALL_BYTES = 64 << 20
"""Models up to this size are finished in one task."""
TINY_BYTES = 4 << 20
"""Work up to this size is done in the same task, too."""


class JobSteps:
    """Runs a job's tasks, publishes its artifact and records its end."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobRepository,
        events: EventRepository,
        store: Storage,
        workers: Workers,
        reuse: ResultReuse,
        metrics: Metrics,
    ) -> None:
        self._settings, self._jobs, self._store = settings, jobs, store
        self._events = events
        self._workers, self._reuse, self._metrics = workers, reuse, metrics

    async def run(self, job_id: str, attempt: int) -> None:
        """Write the missing parts, then the artifact.

        The job has succeeded once the artifact was read back and verified.
        """
        by = self._settings.executor_id
        job = await asyncio.to_thread(self._jobs.start, job_id, attempt, by)
        if job is None:
            await asyncio.to_thread(self._tidy, job_id, attempt)  # a crash may have prevented it
            return
        if await self._copy_twin(job):
            return
        tasks, parts = await asyncio.to_thread(self._read_tasks, job)
        missing = [task for task in tasks if task.part_path not in parts]
        if job.reuse:
            missing = await self._reuse.with_results(job, missing, self._task(job), self._workers)
        cut = lines.task_summary(
            len(tasks), len(tasks) - len(missing), sum(map(reused_tensors, missing))
        )
        is_tiny = sum(task.size_bytes for task in missing) <= TINY_BYTES
        if not is_tiny:  # a tiny job logs this together with its end
            await self._log(job_id, cut)
        done = ProgressCounter(job, self._store_progress, self._metrics)
        for task in tasks:
            if task.part_path in parts:
                done.add(task)
        try:
            if not is_tiny:
                died = self._on_died(job)
                await self._workers.run_tasks(missing, done.on_done, _share(job), died)
                missing = []
            is_small = bool(missing) or job.size_before_bytes <= SMALL_BYTES
            published = await self._published(job, missing, is_small=is_small)
            for task in missing:
                done.finish(task)
            log = [cut] if is_tiny else []
            if is_small:  # a large job logs each when it happens
                log += [lines.WRITTEN, lines.VERIFIED]
            await asyncio.to_thread(self._succeed, job, published, done.now, log)
        except Cancelled:
            await asyncio.to_thread(self._tidy, job_id, attempt)
            raise

    async def fail(self, job_id: str, attempt: int, code: str, detail: str) -> None:
        """Record a failure and delete a partial artifact; finished parts stay for a retry."""
        failure = problem(ERRORS.get(code, PaletteryError)(detail), f"/v1/jobs/{job_id}")
        await asyncio.to_thread(self._jobs.fail, job_id, failure, self._expiry(), attempt)
        await asyncio.to_thread(self._tidy, job_id, attempt)

    async def log_retry(self, job_id: str, error: BaseException) -> None:
        """Write to the job's log why a step will be retried."""
        reason = "a network connection failed"
        if isinstance(error, PaletteryError):
            reason = error.detail
            self._metrics.failed(error)
        await self._log(job_id, lines.retry(reason))

    def _read_tasks(self, job: Job) -> tuple[list[CompressionTask], set[str]]:
        """Return a job's tasks, and the paths of the parts that exist."""
        prefix = job_folder(job.id)
        tasks = read_tasks(self._store, prefix, job.attempt)
        return tasks, set(self._store.list(f"{prefix}/parts"))

    async def _published(
        self, job: Job, first: Sequence[CompressionTask], *, is_small: bool
    ) -> Published:
        """Return the published artifact, verified; an interrupted run may have published it.

        `first` are the tasks to run before, if they are few.
        """
        prefix, run = job_folder(job.id), self._workers.run_tasks
        ask, share, died = self._workers.run_task, _share(job), self._on_died(job)
        if await asyncio.to_thread(self._store.exists, report_path(prefix)):
            return await asyncio.to_thread(self._as_published, prefix)
        if is_small:
            finish = self._task(job, FinishTask, first=tuple(first))
            return _published(await ask(finish, share, died))
        layout = await ask(self._task(job, GatherTask), share, died)
        assert isinstance(layout, Layout)  # noqa: S101 - the result of a GatherTask
        digests: dict[str, str] = {}
        exports: list[Exported] = []

        async def on_done(task: Task, answer: Answer) -> None:
            if isinstance(task, WriteTask):
                digests[task.shard] = str(answer)
            if isinstance(answer, Exported):
                exports.append(answer)

        files = [self._task(job, WriteTask, shard=name) for name in layout.shards]
        await run(files, on_done, share, died)
        await self._log(job.id, lines.WRITTEN)
        checks = [self._task(job, VerifyTask, names=names) for names in layout.batches]
        await run(checks, on_done, share, died)
        await self._log(job.id, lines.VERIFIED)
        forms = [self._task(job, ExportTask, format=to) for to in layout.formats]
        await run(forms, on_done, share, died)
        publish = self._task(job, PublishTask, digests=digests, exports=tuple(exports))
        return _published(await ask(publish, share, died))

    def _task(self, job: Job, kind: Callable[..., JobTask] = JobTask, **more: object) -> JobTask:
        prefix = job_folder(job.id)
        stop = stop_path(prefix, job.attempt)
        return kind(store_url=self._store.url, prefix=prefix, cancel_path=stop, **more)

    async def _copy_twin(self, job: Job) -> bool:
        """Succeed by copying the artifact of a job with the same request, if there is one."""
        if not job.reuse:
            return False
        copied = await self._reuse.copy_twin(job, job_folder(job.id))
        if copied is None:
            return False
        done = Progress(
            tensors_done=job.progress.tensors_total,
            tensors_total=job.progress.tensors_total,
            tensors_reused=job.progress.tensors_total,
            bytes_done=job.progress.bytes_total,
            bytes_total=job.progress.bytes_total,
        )
        await asyncio.to_thread(self._succeed, job, copied, done, (lines.REUSED,))
        self._metrics.reused(done.tensors_total)
        return True

    def _succeed(
        self,
        job: Job,
        published: Published,
        done: Progress,
        log: Sequence[LogMessage],
    ) -> None:
        """Record that a job succeeded, unless it was cancelled meanwhile; then tidy up."""
        size, until, stored = published.size_bytes, self._expiry(), published.stored_bytes
        log = [
            *log,
            *lines.kept_tensors(published.kept),
            lines.size_summary(job.size_before_bytes, size),
        ]
        if (
            self._jobs.succeed(job.id, size, until, done, job.attempt, log, stored)
            and job.reuse
            and published.results
        ):
            self._reuse.remember(job, published.results)
        self._tidy(job.id, job.attempt)

    def _tidy(self, job_id: str, attempt: int) -> None:
        """Delete files that an ended job does not need, unless a later attempt runs."""
        try:
            job = self._jobs.get(job_id)
        except NotFound:  # deleted; expiry removes the rest
            return
        if job.attempt != attempt:
            return
        prefix = job_folder(job_id)
        if job.state == "succeeded":
            self._store.delete_folder(f"{prefix}/parts")
        elif job.state in ENDED:
            discard_artifact(self._store, prefix)

    def _as_published(self, prefix: str) -> Published:
        """Return an artifact that has a report, which is written after verification."""
        report = Report.model_validate_json(bytes(self._store.read(report_path(prefix))))
        return published_artifact(self._store, prefix, report)

    async def _store_progress(self, job: Job, progress: Progress) -> None:
        if not await asyncio.to_thread(self._jobs.advance, job.id, progress, job.attempt):
            raise Cancelled("the job was stopped while it ran")

    async def _log(self, job_id: str, *log_lines: LogMessage) -> None:
        """Write to the job's log; the job goes on if that fails."""
        with suppress(DatabaseFailed):
            await asyncio.to_thread(self._events.log, job_id, *log_lines)

    def _on_died(self, job: Job) -> OnDied:
        async def on_died(tasks: Sequence[Task]) -> None:
            await self._log(
                job.id, *(lines.worker_death(describe(task), _tensor(task)) for task in tasks)
            )

        return on_died

    def _expiry(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self._settings.retain_days)


def _share(job: Job) -> SlotRequest:
    return SlotRequest(job.owner, job.priority, job.id)


def _tensor(task: Task) -> str | None:
    """Return the tensor of a task, if it has only one."""
    names = {part.name for part in task.slices} if isinstance(task, CompressionTask) else set()
    return names.pop() if len(names) == 1 else None


def _published(answer: Answer) -> Published:
    assert isinstance(answer, Published)  # noqa: S101 - the result of these tasks
    return answer
