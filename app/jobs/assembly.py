"""Assembly of a job's artifact from its parts, by tasks on workers; any step may be run again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from palettery.app.compression.job_folder import (
    job_folder,
    published_artifact,
    report_path,
    stop_path,
)
from palettery.app.events import log_messages as lines
from palettery.app.events.log_messages import LogMessage
from palettery.app.execution.fair_slots import SlotRequest
from palettery.app.execution.fanout import OnDied, Workers
from palettery.app.storage.base import Storage
from palettery.schemas.exports import Exported
from palettery.schemas.jobs import Job
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
Log = Callable[[LogMessage], Awaitable[None]]
"""Writes a message to the log of the job."""


class Assembly:
    """Writes, verifies and publishes artifacts."""

    def __init__(self, store: Storage, workers: Workers) -> None:
        self._store, self._workers = store, workers

    async def publish(
        self,
        job: Job,
        prefix: str,
        first: Sequence[CompressionTask],
        log: Log,
        on_died: OnDied,
        *,
        is_small: bool,
    ) -> Published:
        """Verify and publish the artifact of a folder, unless an earlier run has published it.

        `first` are tasks to run before that; only a small artifact may have any.
        """
        if await asyncio.to_thread(self._store.exists, report_path(prefix)):
            return await asyncio.to_thread(self._read_published, prefix)
        if is_small:
            finish = self.task(job, FinishTask, prefix, first=tuple(first))
            return _published(await self._workers.run_task(finish, share(job), on_died))
        return await self._publish_large(job, prefix, log, on_died)

    def task(
        self,
        job: Job,
        kind: Callable[..., JobTask] = JobTask,
        prefix: str | None = None,
        **more: object,
    ) -> JobTask:
        """Return a task of a job; `prefix` is the artifact's folder, by default that of the job."""
        folder = job_folder(job.id)
        stop = stop_path(folder, job.attempt)
        return kind(store_url=self._store.url, prefix=prefix or folder, cancel_path=stop, **more)

    async def _publish_large(self, job: Job, prefix: str, log: Log, on_died: OnDied) -> Published:
        """Publish an artifact with one task per file."""
        run_many, run_one = self._workers.run_tasks, self._workers.run_task
        layout = await run_one(self.task(job, GatherTask, prefix), share(job), on_died)
        assert isinstance(layout, Layout)  # noqa: S101 - the result of a GatherTask
        digests: dict[str, str] = {}
        exports: list[Exported] = []

        async def on_done(task: Task, answer: Answer) -> None:
            if isinstance(task, WriteTask):
                digests[task.shard] = str(answer)
            if isinstance(answer, Exported):
                exports.append(answer)

        files = [self.task(job, WriteTask, prefix, shard=name) for name in layout.shards]
        await run_many(files, on_done, share(job), on_died)
        await log(lines.WRITTEN)
        checks = [self.task(job, VerifyTask, prefix, names=names) for names in layout.batches]
        await run_many(checks, on_done, share(job), on_died)
        await log(lines.VERIFIED)
        conversions = [self.task(job, ExportTask, prefix, format=name) for name in layout.formats]
        await run_many(conversions, on_done, share(job), on_died)
        publish = self.task(job, PublishTask, prefix, digests=digests, exports=tuple(exports))
        return _published(await run_one(publish, share(job), on_died))

    def _read_published(self, prefix: str) -> Published:
        """Return a published artifact; its report exists, so it has been verified."""
        report = Report.model_validate_json(bytes(self._store.read(report_path(prefix))))
        return published_artifact(self._store, prefix, report)


def share(job: Job) -> SlotRequest:
    """Return the request for worker slots that a job's tasks make."""
    return SlotRequest(job.owner, job.priority, job.id)


def _published(answer: Answer) -> Published:
    assert isinstance(answer, Published)  # noqa: S101 - the result of these tasks
    return answer
