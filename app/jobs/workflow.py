"""The durable life of a job: DBOS runs it to an end, whatever dies in between.

A workflow that was cut off is run again from its last finished step, and a step from its parts.
Source: docs.dbos.dev, and the measurements in the engine reference.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from dbos import (
    DBOS,
    DBOSConfig,
    DBOSPortableJSONSerializer,
    SetEnqueueOptions,
    SetWorkflowID,
)
from dbos import error as engine_errors

from app.compression.job import discard_artifact, read_tasks
from app.errors import DatabaseFailed, ObjectMissing, PaletteryError, StorageFailed, problem
from app.jobs.fanout import Workers
from app.jobs.records import Records
from app.settings import Settings
from app.storage import Storage
from schemas.jobs import Progress
from schemas.tasks import CompressionTask

QUEUE = "jobs"
EXECUTOR = "palettery-0"
"""Recovery finds a dead process's workflows by this name, so it never changes."""
VERSION = "1"
"""Of the workflow's steps; recovery resumes workflows of its own version only."""
POLL_S = 0.25
"""Between two looks at the queue."""
ATTEMPTS = 10
"""At a step, with waits that double from half a second: about four minutes."""
REPORT_EVERY_S = 0.3
"""Between two notes of progress in the row."""

_P = ParamSpec("_P")
_R = TypeVar("_R")

UNFORESEEN = PaletteryError("the job failed for a reason that the server's log tells")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """What endpoints need of the running engine."""

    enqueue: Callable[[str], Awaitable[None]]
    """Start a job's workflow, by the job's id; a second call for the same job does nothing."""
    cancel: Callable[[str], Awaitable[None]]


@asynccontextmanager
async def running_engine(
    settings: Settings, records: Records, store: Storage, workers: Workers
) -> AsyncIterator[Engine]:
    """DBOS, launched: takes up what a crash left, then serves the queue."""
    DBOS(config=_config(settings))
    steps = _Steps(records, store, workers)
    run_job = _workflow(steps)
    DBOS.launch()
    await DBOS.register_queue_async(
        QUEUE, worker_concurrency=settings.running_jobs, polling_interval_sec=POLL_S
    )

    async def enqueue(job_id: str) -> None:
        with SetWorkflowID(job_id), SetEnqueueOptions(priority=1):
            await DBOS.enqueue_workflow_async(QUEUE, run_job, job_id)

    async def cancel(job_id: str) -> None:
        await DBOS.cancel_workflow_async(job_id)

    try:
        await _mend(records, store, enqueue)
        yield Engine(enqueue, cancel)
    finally:
        await steps.put_down()
        await asyncio.to_thread(DBOS.destroy)


class _Steps:
    """The steps of a job. Each may be cut off anywhere and run again."""

    def __init__(self, records: Records, store: Storage, workers: Workers) -> None:
        self._records, self._store, self._workers = records, store, workers
        self._underway: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    @contextmanager
    def underway(self) -> Iterator[None]:
        """Around each run of a workflow, so that `put_down` finds it."""
        task = asyncio.current_task()
        if task is None or self._is_stopping:
            raise asyncio.CancelledError
        self._underway.add(task)
        try:
            yield
        finally:
            self._underway.discard(task)

    async def put_down(self) -> None:
        """Stop every workflow where it is; the next start of the server takes them up again.

        A cancelled task records no outcome, where one that loses its workers would have failed.
        """
        self._is_stopping = True
        tasks = list(self._underway)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def compress(self, job_id: str) -> bool:
        """Write the parts that are missing; whether the job may go on."""
        if not await asyncio.to_thread(self._records.start, job_id):
            return False
        tasks = await asyncio.to_thread(read_tasks, self._store, f"jobs/{job_id}")
        exist = set(await asyncio.to_thread(self._store.list, f"jobs/{job_id}/parts"))
        missing = [task for task in tasks if task.part_path not in exist]
        seen = _Progress(self._records, job_id, tasks)
        for task in tasks:
            if task.part_path in exist:
                await seen.add(task)
        await self._workers.run_tasks(missing, seen.add)
        await seen.note()
        return True

    async def assemble(self, job_id: str) -> None:
        """Put the artifact together; the job has succeeded once it was read back and checked."""
        try:
            size_bytes = await self._workers.assemble(self._store.url, f"jobs/{job_id}")
            await asyncio.to_thread(self._records.succeed, job_id, size_bytes)
        finally:
            await asyncio.to_thread(self._tidy, job_id)

    async def fail(self, job_id: str, error: PaletteryError) -> None:
        """Note why the job failed; half an artifact helps nobody, finished parts help a retry."""
        await asyncio.to_thread(discard_artifact, self._store, f"jobs/{job_id}")
        await asyncio.to_thread(self._records.fail, job_id, problem(error, f"/v1/jobs/{job_id}"))

    def _tidy(self, job_id: str) -> None:
        """Remove what the job's state leaves without use; a cancel may come at any moment."""
        state = self._records.get(job_id).state
        if state == "succeeded":
            self._store.delete_folder(f"jobs/{job_id}/parts")
        elif state == "cancelled":
            discard_artifact(self._store, f"jobs/{job_id}")


class _Progress:
    """Counts finished work, and notes it in the row now and then."""

    def __init__(self, records: Records, job_id: str, tasks: list[CompressionTask]) -> None:
        self._records, self._job_id = records, job_id
        self._last = 0.0
        self._now = Progress(
            tensors_total=sum(_tensors(task) for task in tasks),
            bytes_total=sum(task.size_bytes for task in tasks),
        )

    async def add(self, task: CompressionTask) -> None:
        self._now = self._now.model_copy(
            update={
                "tensors_done": self._now.tensors_done + _tensors(task),
                "bytes_done": self._now.bytes_done + task.size_bytes,
            }
        )
        if time.monotonic() - self._last > REPORT_EVERY_S:
            await self.note()

    async def note(self) -> None:
        self._last = time.monotonic()
        await asyncio.to_thread(self._records.advance, self._job_id, self._now)


def _tensors(task: CompressionTask) -> int:
    """Tensors that a task begins; a split one counts with its first rows."""
    return sum(part.first_row == 0 for part in task.slices)


def _workflow(steps: _Steps) -> Callable[[str], Coroutine[None, None, None]]:
    """The workflow, registered with DBOS under names that outlive this process."""

    def lasting(name: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
        return DBOS.step(
            name=name,
            preemptible=True,
            retries_allowed=True,
            interval_seconds=0.5,
            max_attempts=ATTEMPTS,
            should_retry=_is_passing,
        )

    @lasting("compress")
    async def compress(job_id: str) -> bool:
        return await steps.compress(job_id)

    @lasting("assemble")
    async def assemble(job_id: str) -> None:
        await steps.assemble(job_id)

    @DBOS.workflow(name="job", max_recovery_attempts=100)
    async def run_job(job_id: str) -> None:
        with steps.underway():
            await to_its_end(job_id)

    async def to_its_end(job_id: str) -> None:
        try:
            if await compress(job_id):
                await assemble(job_id)
        except PaletteryError as error:
            await steps.fail(job_id, error)
        except engine_errors.DBOSMaxStepRetriesExceeded as given_up:
            log.error("job %s was given up after %d attempts", job_id, ATTEMPTS, exc_info=given_up)
            last = given_up.errors[-1]
            await steps.fail(job_id, last if isinstance(last, PaletteryError) else UNFORESEEN)
        except Exception:
            log.exception("job %s failed for a reason we did not foresee", job_id)
            await steps.fail(job_id, UNFORESEEN)

    return run_job


def _is_passing(error: BaseException) -> bool:
    """Whether another attempt may help: network, store, database or scheduler went away."""
    return isinstance(error, StorageFailed | DatabaseFailed | OSError | asyncio.TimeoutError)


async def _mend(
    records: Records, store: Storage, enqueue: Callable[[str], Awaitable[None]]
) -> None:
    """Bring rows and workflows together that a crash left apart."""
    for job in await asyncio.to_thread(records.alive):
        status = await DBOS.get_workflow_status_async(job.id)
        if status is None:
            if store.exists(f"jobs/{job.id}/tasks.json"):
                await enqueue(job.id)
            else:
                lost = ObjectMissing(
                    "the server stopped before the upload was complete; send it again"
                )
                await asyncio.to_thread(records.fail, job.id, problem(lost))
        elif status.status not in ("PENDING", "ENQUEUED", "DELAYED"):
            ended = PaletteryError("the job ended while the server was away; retry it")
            await asyncio.to_thread(records.fail, job.id, problem(ended))


def _config(settings: Settings) -> DBOSConfig:
    return DBOSConfig(
        name="palettery",
        system_database_url=settings.resolved_dbos_url(),
        application_version=VERSION,
        executor_id=EXECUTOR,
        serializer=DBOSPortableJSONSerializer(),
        log_level="ERROR",
        console_log_level="ERROR",
    )
