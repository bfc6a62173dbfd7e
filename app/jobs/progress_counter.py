"""Progress of a running job, counted by its tasks."""

import asyncio
import time
from collections.abc import Collection, Sequence

from palettery.app.errors import Cancelled
from palettery.app.jobs.repository import JobRepository
from palettery.app.observability.metrics import Metrics
from palettery.schemas.jobs import Job, Progress
from palettery.schemas.tasks import Answer, CompressionTask, Task

STORE_EVERY_S = 0.3
"""Interval between two writes of the progress to the row."""


class ProgressCounter:
    """Counts finished work, and stores the progress from time to time."""

    def __init__(self, job: Job, jobs: JobRepository, metrics: Metrics) -> None:
        self._job, self._jobs, self._metrics = job, jobs, metrics
        self._last = time.monotonic()
        total = job.progress
        self.now = Progress(tensors_total=total.tensors_total, bytes_total=total.bytes_total)

    async def on_done(self, task: Task, _: Answer) -> None:
        """Count a task, and store the progress if it was last stored long enough ago."""
        assert isinstance(task, CompressionTask)  # noqa: S101 - there are no others here
        self.finish(task)
        if time.monotonic() - self._last > STORE_EVERY_S:
            self._last = time.monotonic()
            await store_progress(self._jobs, self._job, self.now)

    def missing(
        self, tasks: Sequence[CompressionTask], parts: Collection[str]
    ) -> list[CompressionTask]:
        """Count the tasks whose parts exist; return the others."""
        for task in tasks:
            if task.part_path in parts:
                self.add(task)
        return [task for task in tasks if task.part_path not in parts]

    def finish(self, task: CompressionTask) -> None:
        """Count a task that has just finished, in the metrics too."""
        self._metrics.palettized(task)
        self.add(task)

    def add(self, task: CompressionTask) -> None:
        """Count a task that has finished, now or before a crash."""
        now = self.now
        self.now = now.model_copy(
            update={
                "tensors_done": now.tensors_done + _tensors(task),
                "tensors_reused": now.tensors_reused + reused_tensors(task),
                "bytes_done": now.bytes_done + task.size_bytes,
            }
        )


async def store_progress(
    jobs: JobRepository, job: Job, progress: Progress, **columns: object
) -> None:
    """Store the progress of a running job, and other columns of its row.

    Raises:
        Cancelled: the job was stopped meanwhile.
    """
    if not await asyncio.to_thread(jobs.advance, job.id, progress, job.attempt, **columns):
        raise Cancelled("the job was stopped while it ran")


def reused_tensors(task: CompressionTask) -> int:
    """Return the number of tensors whose first rows are reused in a task."""
    return sum(part.first_row == 0 and part.known is not None for part in task.slices)


def _tensors(task: CompressionTask) -> int:
    """Return the number of tensors whose first row is in a task."""
    return sum(part.first_row == 0 for part in task.slices)
