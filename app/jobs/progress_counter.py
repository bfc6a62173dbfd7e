"""Progress of a running job, counted by its tasks."""

import time
from collections.abc import Awaitable, Callable

from palettery.app.observability.metrics import Metrics
from palettery.schemas.jobs import Job, Progress
from palettery.schemas.tasks import Answer, CompressionTask, Task

STORE_EVERY_S = 0.3
"""Interval between two writes of the progress to the row."""


class ProgressCounter:
    """Counts finished work, and stores the progress from time to time."""

    def __init__(
        self, job: Job, store: Callable[[Job, Progress], Awaitable[None]], metrics: Metrics
    ) -> None:
        self._job, self._store, self._metrics = job, store, metrics
        self._last = time.monotonic()
        total = job.progress
        self.now = Progress(tensors_total=total.tensors_total, bytes_total=total.bytes_total)

    async def on_done(self, task: Task, _: Answer) -> None:
        """Count a task, and store the progress if it was last stored long enough ago."""
        assert isinstance(task, CompressionTask)  # noqa: S101 - there are no others here
        self.finish(task)
        if time.monotonic() - self._last > STORE_EVERY_S:
            self._last = time.monotonic()
            await self._store(self._job, self.now)

    def finish(self, task: CompressionTask) -> None:
        """Count a task that was done now."""
        self._metrics.palettized(task)
        self.add(task)

    def add(self, task: CompressionTask) -> None:
        """Count a task that was done, now or before a crash."""
        now = self.now
        self.now = now.model_copy(
            update={
                "tensors_done": now.tensors_done + _tensors(task),
                "tensors_reused": now.tensors_reused + reused_tensors(task),
                "bytes_done": now.bytes_done + task.size_bytes,
            }
        )


def reused_tensors(task: CompressionTask) -> int:
    """Return the number of tensors whose first rows are reused in a task."""
    return sum(part.first_row == 0 and part.known is not None for part in task.slices)


def _tensors(task: CompressionTask) -> int:
    """Return the number of tensors whose first row is in a task."""
    return sum(part.first_row == 0 for part in task.slices)
