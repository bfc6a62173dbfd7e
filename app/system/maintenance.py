"""Periodic maintenance: jobs by each controller, and the process itself by each API server."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

from palettery.app.database.engine import Database
from palettery.app.errors import DatabaseFailed, DeadlineExceeded, PaletteryError, problem
from palettery.app.execution.controllers import ControllerRepository
from palettery.app.execution.engine import Engine
from palettery.app.execution.fair_queue import OwnerTurns
from palettery.app.execution.fanout import Workers
from palettery.app.jobs.expiry import JobExpiry
from palettery.app.jobs.lifecycle import JobLifecycle
from palettery.app.jobs.repository import JobRepository
from palettery.app.sandbox.process_memory import MemoryTrimmer
from palettery.app.settings import Settings
from palettery.app.storage.disk_reserve import DiskReserve
from palettery.app.version import VERSION

DEADLINES_EVERY_S = 1.0
HEARTBEAT_EVERY_S = 5.0
QUEUE_EVERY_S = 5.0
RESERVE_EVERY_S = 5.0
REPAIR_EVERY_S = 60.0
TRIM_EVERY_S = 5.0

log = logging.getLogger(__name__)


class ControllerMaintenance:
    """Periodic tasks of a controller; a task that fails is repeated at its next turn."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobRepository,
        controllers: ControllerRepository,
        engine: Engine,
        lifecycle: JobLifecycle,
        expiry: JobExpiry,
        workers: Workers,
        turns: OwnerTurns,
        reserve: DiskReserve,
    ) -> None:
        self._settings, self._jobs, self._controllers = settings, jobs, controllers
        self._engine, self._lifecycle, self._expiry = engine, lifecycle, expiry
        self._workers = workers
        self._turns, self._reserve = turns, reserve

    async def run(self) -> None:
        """Run all maintenance tasks concurrently, until cancelled."""
        await asyncio.gather(
            _repeat(DEADLINES_EVERY_S, self._fail_overdue_jobs),
            _repeat_in_thread(HEARTBEAT_EVERY_S, self._send_heartbeat),
            _repeat_in_thread(QUEUE_EVERY_S, self._turns.close_gaps),
            _repeat_in_thread(RESERVE_EVERY_S, self._reserve.create),
            _repeat_in_thread(REPAIR_EVERY_S, self._repair),
            _repeat_in_thread(self._settings.sweep_every_s, self._delete_expired),
        )

    def _delete_expired(self) -> None:
        """Delete what has expired; if the database fails, release the disk reserve and retry."""
        try:
            self._expiry.run()
        except DatabaseFailed:
            self._reserve.release()
            self._expiry.run()

    def _send_heartbeat(self) -> None:
        self._controllers.heartbeat(self._settings.executor_id, self._workers.count(), VERSION)

    async def _fail_overdue_jobs(self) -> None:
        for job_id in await asyncio.to_thread(self._jobs.overdue, datetime.now(UTC)):
            error = DeadlineExceeded(
                "the job did not end before its deadline; a retry continues it without a deadline"
            )
            await self._lifecycle.fail(job_id, problem(error, f"/v1/jobs/{job_id}"))

    def _repair(self) -> None:
        """Repair jobs whose row and workflow disagree, such as after a crash."""
        jobs = self._jobs.active()
        states = self._engine.workflow_states([(job.id, job.attempt) for job in jobs])
        for job, state in zip(jobs, states, strict=True):
            if state == "none":
                self._jobs.enqueue_again(job.id, self._engine.enqueue)
            elif state == "ended":
                error = PaletteryError("the job's workflow ended without a result; retry the job")
                cause = problem(error, f"/v1/jobs/{job.id}")
                self._jobs.fail(job.id, cause, attempt=job.attempt)


async def maintain_process(database: Database, check_every_s: float) -> None:
    """Check the database, and return freed memory to the system, until cancelled."""
    await asyncio.gather(
        _repeat_in_thread(check_every_s, database.check_integrity),
        _repeat_in_thread(TRIM_EVERY_S, MemoryTrimmer().run),
    )


async def _repeat_in_thread(every_s: float, work: Callable[[], None]) -> None:
    await _repeat(every_s, partial(asyncio.to_thread, work))


async def _repeat(every_s: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except PaletteryError as error:
            log.warning("maintenance failed, and will be retried: %s", error)
        except Exception:
            log.exception("maintenance failed, and will be retried")
        await asyncio.sleep(every_s)
