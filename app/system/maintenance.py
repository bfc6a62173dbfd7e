"""What a controller looks after between jobs: signs of life, deadlines, loose ends, leftovers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

from palettery.app.errors import DatabaseFailed, DeadlineExceeded, PaletteryError, problem
from palettery.app.execution.controllers import ControllerRepository
from palettery.app.execution.engine import Engine
from palettery.app.execution.fanout import Workers
from palettery.app.execution.turns import OwnerTurns
from palettery.app.jobs.expiry import JobExpiry
from palettery.app.jobs.lifecycle import JobLifecycle
from palettery.app.jobs.repository import JobRepository
from palettery.app.settings import Settings
from palettery.app.storage.reserve import Reserve
from palettery.app.version import VERSION

DEADLINE_EVERY_S = 1.0
NOTE_EVERY_S = 5.0
MEND_EVERY_S = 60.0

log = logging.getLogger(__name__)


class Maintenance:
    """Runs beside the workflows; whatever fails is tried again at its next turn."""

    def __init__(
        self,
        settings: Settings,
        records: JobRepository,
        controllers: ControllerRepository,
        engine: Engine,
        control: JobLifecycle,
        sweep: JobExpiry,
        workers: Workers,
        turns: OwnerTurns,
        reserve: Reserve,
    ) -> None:
        self._settings, self._records, self._controllers = settings, records, controllers
        self._engine, self._control, self._sweep, self._workers = engine, control, sweep, workers
        self._turns, self._reserve = turns, reserve

    async def run(self) -> None:
        """Look after everything, until cancelled; what takes long holds nothing else up."""
        await asyncio.gather(
            _repeat(DEADLINE_EVERY_S, self._end_overdue),
            _repeat(NOTE_EVERY_S, partial(asyncio.to_thread, self._note)),
            _repeat(NOTE_EVERY_S, partial(asyncio.to_thread, self._turns.close_gaps)),
            _repeat(NOTE_EVERY_S, partial(asyncio.to_thread, self._reserve.make)),
            _repeat(MEND_EVERY_S, partial(asyncio.to_thread, self._mend)),
            _repeat(self._settings.sweep_every_s, partial(asyncio.to_thread, self._clean_up)),
        )

    def _clean_up(self) -> None:
        """Remove what nobody needs; on a full disk too, if there is anything."""
        try:
            self._sweep.run()
        except DatabaseFailed:
            self._reserve.give_up()
            self._sweep.run()

    def _note(self) -> None:
        self._controllers.heartbeat(self._settings.executor_id, self._workers.count(), VERSION)

    async def _end_overdue(self) -> None:
        for job_id in await asyncio.to_thread(self._records.overdue, datetime.now(UTC)):
            told = problem(
                DeadlineExceeded(
                    "the job had not ended at its deadline; a retry goes on, without one"
                ),
                f"/v1/jobs/{job_id}",
            )
            await self._control.fail(job_id, told)

    def _mend(self) -> None:
        """Bring rows and workflows together, should anything have left them apart."""
        jobs = self._records.alive()
        lives = self._engine.workflow_states([(job.id, job.attempt) for job in jobs])
        for job, life in zip(jobs, lives, strict=True):
            if life == "none":
                self._records.enqueue_again(job.id, self._engine.enqueue)
            elif life == "ended":
                ended = PaletteryError("the job's work ended without a result; retry it")
                told = problem(ended, f"/v1/jobs/{job.id}")
                self._records.fail(job.id, told, attempt=job.attempt)


async def _repeat(every_s: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except PaletteryError as error:
            log.warning("will be tried again: %s", error)
        except Exception:
            log.exception("will be tried again")
        await asyncio.sleep(every_s)
