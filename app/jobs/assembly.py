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
        died: OnDied,
        *,
        is_small: bool,
    ) -> Published:
        """Return the published artifact of a folder, verified; an earlier run may have published.

        `first` are the tasks to run before, if they are few and the artifact is small.
        """
        if await asyncio.to_thread(self._store.exists, report_path(prefix)):
            return await asyncio.to_thread(self._as_published, prefix)
        if is_small:
            finish = self.task(job, FinishTask, prefix, first=tuple(first))
            return _published(await self._workers.run_task(finish, share(job), died))
        return await self._publish_large(job, prefix, log, died)

    def task(
        self,
        job: Job,
        kind: Callable[..., JobTask] = JobTask,
        prefix: str | None = None,
        **more: object,
    ) -> JobTask:
        """Return a task of a job; `prefix` is that of the artifact, if it is not the job's."""
        folder = job_folder(job.id)
        stop = stop_path(folder, job.attempt)
        return kind(store_url=self._store.url, prefix=prefix or folder, cancel_path=stop, **more)

    async def _publish_large(self, job: Job, prefix: str, log: Log, died: OnDied) -> Published:
        """Publish an artifact by a task for each of its files."""
        run, ask = self._workers.run_tasks, self._workers.run_task
        layout = await ask(self.task(job, GatherTask, prefix), share(job), died)
        assert isinstance(layout, Layout)  # noqa: S101 - the result of a GatherTask
        digests: dict[str, str] = {}
        exports: list[Exported] = []

        async def on_done(task: Task, answer: Answer) -> None:
            if isinstance(task, WriteTask):
                digests[task.shard] = str(answer)
            if isinstance(answer, Exported):
                exports.append(answer)

        files = [self.task(job, WriteTask, prefix, shard=name) for name in layout.shards]
        await run(files, on_done, share(job), died)
        await log(lines.WRITTEN)
        checks = [self.task(job, VerifyTask, prefix, names=names) for names in layout.batches]
        await run(checks, on_done, share(job), died)
        await log(lines.VERIFIED)
        forms = [self.task(job, ExportTask, prefix, format=to) for to in layout.formats]
        await run(forms, on_done, share(job), died)
        publish = self.task(job, PublishTask, prefix, digests=digests, exports=tuple(exports))
        return _published(await ask(publish, share(job), died))

    def _as_published(self, prefix: str) -> Published:
        """Return an artifact that has a report, which is written after verification."""
        report = Report.model_validate_json(bytes(self._store.read(report_path(prefix))))
        return published_artifact(self._store, prefix, report)


def share(job: Job) -> SlotRequest:
    """Return the turn of a job's tasks among those of others."""
    return SlotRequest(job.owner, job.priority, job.id)


def _published(answer: Answer) -> Published:
    assert isinstance(answer, Published)  # noqa: S101 - the result of these tasks
    return answer
