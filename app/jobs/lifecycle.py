"""Changes of jobs from outside their workflows: cancellation, failure, retry and deletion."""

import asyncio
from datetime import UTC, datetime, timedelta

from palettery.app.compression.job_folder import job_folder, stop_path
from palettery.app.errors import Conflict
from palettery.app.execution.engine import Engine
from palettery.app.files.removal import remove_unused_files
from palettery.app.files.repository import FileRepository
from palettery.app.jobs.repository import JobRepository
from palettery.app.settings import Settings
from palettery.app.storage.base import Storage
from palettery.schemas.jobs import Job
from palettery.schemas.keys import OwnerLimits
from palettery.schemas.problem import Problem


class JobLifecycle:
    """Cancels, retries and deletes jobs.

    The row changes first, so that its state is right even if the process dies before the rest.
    """

    def __init__(
        self,
        settings: Settings,
        jobs: JobRepository,
        files: FileRepository,
        store: Storage,
        engine: Engine,
    ) -> None:
        self._settings, self._jobs, self._files = settings, jobs, files
        self._store, self._engine = store, engine

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job that has not ended.

        Raises:
            Conflict: it has ended.
        """
        job = await asyncio.to_thread(self._jobs.get, job_id)
        if not await asyncio.to_thread(self._jobs.cancel, job_id, self._expiry()):
            job = await asyncio.to_thread(self._jobs.get, job_id)
            raise Conflict(f"the job is {job.state}; only queued and running jobs can be cancelled")
        await self._stop(job)
        return await asyncio.to_thread(self._jobs.get, job_id)

    async def fail(self, job_id: str, problem: Problem) -> None:
        """Mark a job as failed, unless it has ended."""
        job = await asyncio.to_thread(self._jobs.get, job_id)
        if await asyncio.to_thread(self._jobs.fail, job_id, problem, self._expiry()):
            await self._stop(job)

    async def retry(self, job_id: str, limits: OwnerLimits) -> Job:
        """Queue a failed or cancelled job again; finished parts are not computed again.

        Raises:
            Conflict: it is in another state.
            OverQuota: its owner would have too many active jobs.
        """
        await asyncio.to_thread(self._jobs.retry, job_id, self._engine.enqueue, limits)
        return await asyncio.to_thread(self._jobs.get, job_id)

    def delete(self, job_id: str) -> None:
        """Delete an ended job with its files, and uploaded files that no other job needs.

        Raises:
            Conflict: it has not ended.
        """
        job = self._jobs.get(job_id)
        self._jobs.delete(job_id)
        self._engine.delete_workflows(job_id, job.attempt)
        self._store.delete_folder(job_folder(job_id))
        remove_unused_files(self._files, self._store)

    async def _stop(self, job: Job) -> None:
        """Stop the workflow of a job, and its tasks at their next check."""
        marker = stop_path(job_folder(job.id), job.attempt)
        await asyncio.to_thread(self._store.write, marker, b"")
        await self._engine.cancel(job.id, job.attempt)

    def _expiry(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self._settings.retain_days)
