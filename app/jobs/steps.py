"""The steps of a job. Each may be cut off anywhere and run again."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from palettery.app.compression.assemble import report_path
from palettery.app.compression.dispatch import describe
from palettery.app.compression.job_folder import (
    discard_artifact,
    job_folder,
    published,
    read_tasks,
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
"""Work up to this size is done in that task, too."""
REPORT_EVERY_S = 0.3
"""Between two notes of progress in the row."""


class JobSteps:
    """What a workflow does, one step after the other."""

    def __init__(
        self,
        settings: Settings,
        records: JobRepository,
        events: EventRepository,
        store: Storage,
        workers: Workers,
        reuse: ResultReuse,
        metrics: Metrics,
    ) -> None:
        self._settings, self._records, self._store = settings, records, store
        self._events = events
        self._workers, self._reuse, self._metrics = workers, reuse, metrics

    async def run(self, job_id: str, attempt: int) -> None:
        """Write the parts that are missing, then the artifact.

        The job has succeeded once the artifact was read back and checked.
        """
        by = self._settings.executor_id
        job = await asyncio.to_thread(self._records.start, job_id, attempt, by)
        if job is None:
            await asyncio.to_thread(self._tidy, job_id, attempt)  # a crash may have left it so
            return
        if await self._take_over_twin(job):
            return
        tasks, exist = await asyncio.to_thread(self._work, job)
        missing = [task for task in tasks if task.part_path not in exist]
        if job.reuse:
            around = self._task(job)
            missing = await self._reuse.with_known(job, missing, around, self._workers)
        cut = lines.task_summary(len(tasks), len(tasks) - len(missing), sum(map(_reused, missing)))
        is_tiny = sum(task.size_bytes for task in missing) <= TINY_BYTES
        if not is_tiny:  # else that and the end are told together
            await self._tell(job_id, cut)
        seen = _Progress(job, self._note, self._metrics)
        for task in tasks:
            if task.part_path in exist:
                seen.add(task)
        try:
            if not is_tiny:
                died = self._on_died(job)
                await self._workers.run_tasks(missing, seen.on_done, _share(job), died)
                missing = []
            is_small = bool(missing) or job.size_before_bytes <= SMALL_BYTES
            published = await self._published(job, missing, is_small=is_small)
            for task in missing:
                seen.finish(task)
            how = [cut] if is_tiny else []
            if is_small:  # a large one told so when it was
                how += [lines.WRITTEN, lines.VERIFIED]
            await asyncio.to_thread(self._succeed, job, published, seen.now, how)
        except Cancelled:
            await asyncio.to_thread(self._tidy, job_id, attempt)
            raise

    async def fail(self, job_id: str, attempt: int, code: str, detail: str) -> None:
        """Note why the job failed; half an artifact helps nobody, finished parts help a retry."""
        told = problem(ERRORS.get(code, PaletteryError)(detail), f"/v1/jobs/{job_id}")
        await asyncio.to_thread(self._records.fail, job_id, told, self._expiry(), attempt)
        await asyncio.to_thread(self._tidy, job_id, attempt)

    async def trouble(self, job_id: str, error: BaseException) -> None:
        """Have the job's log tell why a step will be tried again."""
        why = error.detail if isinstance(error, PaletteryError) else "something cannot be reached"
        if isinstance(error, PaletteryError):
            self._metrics.failed(error)
        await self._tell(job_id, lines.retry(why))

    def _work(self, job: Job) -> tuple[list[CompressionTask], set[str]]:
        """A job's tasks, and the parts that there are."""
        prefix = job_folder(job.id)
        tasks = read_tasks(self._store, prefix, job.attempt)
        return tasks, set(self._store.list(f"{prefix}/parts"))

    async def _published(
        self, job: Job, first: Sequence[CompressionTask], *, is_small: bool
    ) -> Published:
        """The artifact, verified; of an earlier run that was cut off right after, as it is.

        `first` is what little is to be palettized before.
        """
        prefix, run = job_folder(job.id), self._workers.run_tasks
        ask, share, died = self._workers.run_task, _share(job), self._on_died(job)
        if await asyncio.to_thread(self._store.exists, report_path(prefix)):
            return await asyncio.to_thread(self._as_published, prefix)
        if is_small:
            finish = self._task(job, FinishTask, first=tuple(first))
            return _published(await ask(finish, share, died))
        layout = await ask(self._task(job, GatherTask), share, died)
        assert isinstance(layout, Layout)  # noqa: S101 - what a GatherTask gives
        digests: dict[str, str] = {}
        exports: list[Exported] = []

        async def on_done(task: Task, answer: Answer) -> None:
            if isinstance(task, WriteTask):
                digests[task.shard] = str(answer)
            if isinstance(answer, Exported):
                exports.append(answer)

        files = [self._task(job, WriteTask, shard=name) for name in layout.shards]
        await run(files, on_done, share, died)
        await self._tell(job.id, lines.WRITTEN)
        checks = [self._task(job, VerifyTask, names=names) for names in layout.batches]
        await run(checks, on_done, share, died)
        await self._tell(job.id, lines.VERIFIED)
        forms = [self._task(job, ExportTask, format=to) for to in layout.formats]
        await run(forms, on_done, share, died)
        publish = self._task(job, PublishTask, digests=digests, exports=tuple(exports))
        return _published(await ask(publish, share, died))

    def _task(self, job: Job, kind: Callable[..., JobTask] = JobTask, **more: object) -> JobTask:
        prefix = job_folder(job.id)
        stop = stop_path(prefix, job.attempt)
        return kind(store_url=self._store.url, prefix=prefix, cancel_path=stop, **more)

    async def _take_over_twin(self, job: Job) -> bool:
        """Succeed at once where another job has done the very same; whether that was so."""
        if not job.reuse:
            return False
        taken = await self._reuse.take_over_twin(job, job_folder(job.id))
        if taken is None:
            return False
        done = Progress(
            tensors_done=job.progress.tensors_total,
            tensors_total=job.progress.tensors_total,
            tensors_reused=job.progress.tensors_total,
            bytes_done=job.progress.bytes_total,
            bytes_total=job.progress.bytes_total,
        )
        await asyncio.to_thread(self._succeed, job, taken, done, (lines.REUSED,))
        self._metrics.reused(done.tensors_total)
        return True

    def _succeed(
        self,
        job: Job,
        published: Published,
        done: Progress,
        how: Sequence[LogMessage],
    ) -> None:
        """Note that a job succeeded, unless it was cancelled meanwhile; then tidy up."""
        size, until, stored = published.size_bytes, self._expiry(), published.stored_bytes
        told = [
            *how,
            *lines.kept_tensors(published.kept),
            lines.size_summary(job.size_before_bytes, size),
        ]
        if (
            self._records.succeed(job.id, size, until, done, job.attempt, told, stored)
            and job.reuse
            and published.results
        ):
            self._reuse.remember(job, published.results)
        self._tidy(job.id, job.attempt)

    def _tidy(self, job_id: str, attempt: int) -> None:
        """Remove what an ended job has no use for, unless a later attempt is at it."""
        try:
            job = self._records.get(job_id)
        except NotFound:  # deleted; the sweep removes what is left
            return
        if job.attempt != attempt:
            return
        prefix = job_folder(job_id)
        if job.state == "succeeded":
            self._store.delete_folder(f"{prefix}/parts")
        elif job.state in ENDED:
            discard_artifact(self._store, prefix)

    def _as_published(self, prefix: str) -> Published:
        """An artifact whose report is there, so that it was verified."""
        report = Report.model_validate_json(bytes(self._store.read(report_path(prefix))))
        return published(self._store, prefix, report)

    async def _note(self, job: Job, progress: Progress) -> None:
        if not await asyncio.to_thread(self._records.advance, job.id, progress, job.attempt):
            raise Cancelled("the job was stopped while it ran")

    async def _tell(self, job_id: str, *told: LogMessage) -> None:
        """Have it in the job's log; what cannot be written there stops no job."""
        with suppress(DatabaseFailed):
            await asyncio.to_thread(self._events.log, job_id, *told)

    def _on_died(self, job: Job) -> OnDied:
        async def on_died(tasks: Sequence[Task]) -> None:
            await self._tell(
                job.id, *(lines.worker_death(describe(task), _tensor(task)) for task in tasks)
            )

        return on_died

    def _expiry(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self._settings.retain_days)


class _Progress:
    """Counts finished work, and has it noted now and then."""

    def __init__(
        self, job: Job, note: Callable[[Job, Progress], Awaitable[None]], metrics: Metrics
    ) -> None:
        self._job, self._note, self._metrics = job, note, metrics
        self._last = time.monotonic()
        of = job.progress
        self.now = Progress(tensors_total=of.tensors_total, bytes_total=of.bytes_total)

    async def on_done(self, task: Task, _: Answer) -> None:
        assert isinstance(task, CompressionTask)  # noqa: S101 - there are no others here
        self.finish(task)
        if time.monotonic() - self._last > REPORT_EVERY_S:
            self._last = time.monotonic()
            await self._note(self._job, self.now)

    def finish(self, task: CompressionTask) -> None:
        """A task is done now."""
        self._metrics.palettized(task)
        self.add(task)

    def add(self, task: CompressionTask) -> None:
        """A task is done, now or before a crash."""
        now = self.now
        self.now = now.model_copy(
            update={
                "tensors_done": now.tensors_done + _tensors(task),
                "tensors_reused": now.tensors_reused + _reused(task),
                "bytes_done": now.bytes_done + task.size_bytes,
            }
        )


def _share(job: Job) -> SlotRequest:
    return SlotRequest(job.owner, job.priority, job.id)


def _tensors(task: CompressionTask) -> int:
    """Tensors that a task begins; a split one counts with its first rows."""
    return sum(part.first_row == 0 for part in task.slices)


def _tensor(task: Task) -> str | None:
    """The tensor that a task is about, if it is one alone."""
    names = {part.name for part in task.slices} if isinstance(task, CompressionTask) else set()
    return names.pop() if len(names) == 1 else None


def _reused(task: CompressionTask) -> int:
    return sum(part.first_row == 0 and part.known is not None for part in task.slices)


def _published(answer: Answer) -> Published:
    assert isinstance(answer, Published)  # noqa: S101 - what these tasks give
    return answer
