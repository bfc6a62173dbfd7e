"""End, retry and delete jobs from outside their workflows."""

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
    """Changes a job's row first: what the row says holds, whatever dies on the way."""

    def __init__(
        self,
        settings: Settings,
        records: JobRepository,
        files: FileRepository,
        store: Storage,
        engine: Engine,
    ) -> None:
        self._settings, self._records, self._files = settings, records, files
        self._store, self._engine = store, engine

    async def cancel(self, job_id: str) -> Job:
        """Stop a job that has not ended.

        Raises:
            Conflict: it has.
        """
        job = await asyncio.to_thread(self._records.get, job_id)
        if not await asyncio.to_thread(self._records.cancel, job_id, self._expiry()):
            job = await asyncio.to_thread(self._records.get, job_id)
            raise Conflict(f"the job is {job.state}; only queued and running jobs can be cancelled")
        await self._stop(job)
        return await asyncio.to_thread(self._records.get, job_id)

    async def fail(self, job_id: str, told: Problem) -> None:
        """End a job that has not ended, as failed."""
        job = await asyncio.to_thread(self._records.get, job_id)
        if await asyncio.to_thread(self._records.fail, job_id, told, self._expiry()):
            await self._stop(job)

    async def retry(self, job_id: str, limits: OwnerLimits) -> Job:
        """Have a failed or cancelled job go on over the parts that exist.

        Raises:
            Conflict: it is in another state.
            OverQuota: its owner may not have as many jobs.
        """
        await asyncio.to_thread(self._records.retry, job_id, self._engine.enqueue, limits)
        return await asyncio.to_thread(self._records.get, job_id)

    def delete(self, job_id: str) -> None:
        """Remove an ended job with its bytes; those of its upload once no other job needs them.

        Raises:
            Conflict: it has not ended.
        """
        job = self._records.get(job_id)
        self._records.delete(job_id)
        self._engine.delete_workflows(job_id, job.attempt)
        self._store.delete_folder(job_folder(job_id))
        remove_unused_files(self._files, self._store)

    async def _stop(self, job: Job) -> None:
        """Have tasks stop at their next look, and the workflow where it is."""
        marker = stop_path(job_folder(job.id), job.attempt)
        await asyncio.to_thread(self._store.write, marker, b"")
        await self._engine.cancel(job.id, job.attempt)

    def _expiry(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self._settings.retain_days)
