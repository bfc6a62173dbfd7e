"""The work of a calibration in the workflow of its job."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from palettery.app.calibration.store_folder import saved_batches
from palettery.app.calibrations.repository import CalibrationRepository
from palettery.app.compression.job_folder import job_folder, stop_path
from palettery.app.compression.perform_task import describe
from palettery.app.errors import DatabaseFailed, WorkerDied
from palettery.app.events import log_messages as lines
from palettery.app.events.log_messages import LogMessage
from palettery.app.events.repository import EventRepository
from palettery.app.execution.fair_slots import SlotRequest
from palettery.app.execution.fanout import OnProgress, Workers
from palettery.app.jobs.repository import JobRepository
from palettery.app.settings import Settings
from palettery.app.storage.base import Storage
from palettery.schemas.calibration import CalibrationSummary
from palettery.schemas.jobs import Job, Progress
from palettery.schemas.tasks import CalibrateTask


class CalibrationSteps:
    """Runs calibrations on workers, and records their end."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobRepository,
        calibrations: CalibrationRepository,
        events: EventRepository,
        store: Storage,
        workers: Workers,
    ) -> None:
        self._settings, self._jobs, self._calibrations = settings, jobs, calibrations
        self._events, self._store, self._workers = events, store, workers

    async def run(self, job: Job) -> None:
        """Run the model on a worker, from the last saved batch, and store the result."""

        async def on_progress(done: int, total: int) -> None:
            progress = Progress(tensors_done=done, tensors_total=total)
            with suppress(DatabaseFailed):
                await asyncio.to_thread(self._jobs.advance, job.id, progress, job.attempt)

        summary = await self._summary(job, on_progress)
        await asyncio.to_thread(self._succeed, job, summary)

    async def _summary(self, job: Job, on_progress: OnProgress) -> CalibrationSummary:
        """Return the result; as long as there is progress, workers may die.

        Raises:
            WorkerDied: several workers died without saving another batch.
        """
        prefix = job_folder(job.id)
        stop, share = stop_path(prefix, job.attempt), SlotRequest(job.owner, job.priority, job.id)
        task = CalibrateTask(store_url=self._store.url, prefix=prefix, cancel_path=stop)
        saved = await asyncio.to_thread(saved_batches, self._store, prefix)

        async def on_died(_: object) -> None:
            death = lines.worker_death(describe(task), None)
            with suppress(DatabaseFailed):
                await asyncio.to_thread(self._events.log, job.id, death)

        while True:
            try:
                answer = await self._workers.run_task(task, share, on_died, on_progress)
            except WorkerDied:
                now = await asyncio.to_thread(saved_batches, self._store, prefix)
                if now <= saved:
                    raise
                saved = now
            else:
                assert isinstance(answer, CalibrationSummary)  # noqa: S101 - of this task
                return answer

    def _succeed(self, job: Job, summary: CalibrationSummary) -> None:
        self._calibrations.finish(job.id, summary)
        log = [
            *(LogMessage(warning, "warning") for warning in summary.warnings),
            LogMessage(f"calibrated {summary.tensors:,} weights on {summary.samples:,} samples"),
        ]
        done = Progress(tensors_done=summary.samples, tensors_total=summary.samples)
        expires_at = datetime.now(UTC) + timedelta(days=self._settings.retain_days)
        size = summary.size_bytes
        self._jobs.succeed(job.id, size, expires_at, done, job.attempt, log)
