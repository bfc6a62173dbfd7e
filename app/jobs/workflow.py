"""The durable life of a job: the engine runs it to an end, whatever dies in between.

A workflow that was cut off is run again, and goes on from the parts, or the report, that lie there.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ParamSpec, TypeVar

from dbos import DBOS
from dbos import error as engine_errors

from palettery.app.database.engine import Database
from palettery.app.errors import PaletteryError, Unavailable
from palettery.app.execution.engine import QUEUE, WEBHOOKS, WORKFLOW, WorkflowCall, configure
from palettery.app.jobs.steps import JobSteps
from palettery.app.observability import logging as logs
from palettery.app.observability.tracing import Tracing
from palettery.app.settings import Settings
from palettery.app.webhooks.deliveries import DeliveryOutcome, WebhookDeliveries

EVERY_S, ATTEMPTS = 2.0, 450
"""Between two attempts at a step, and how many: what is away may stay away for a quarter hour."""
CALLS, WEBHOOKS_POLL_S = 32, 0.5
"""Webhooks that a process calls at once, and seconds between two looks for more."""
RECOVERIES = 100
"""Deaths of the process that runs a job until the job is given up."""

_P = ParamSpec("_P")
_R = TypeVar("_R")

UNFORESEEN = PaletteryError("the job failed for a reason that the server's log tells")

log = logging.getLogger(__name__)


@asynccontextmanager
async def running_workflows(
    settings: Settings,
    database: Database,
    steps: JobSteps,
    deliveries: WebhookDeliveries,
    traces: Tracing,
) -> AsyncIterator[None]:
    """The engine, launched: takes up what a crash left, then serves the queue."""
    DBOS(config=configure(settings, database))
    underway = _Underway()
    _register(steps, underway, traces)
    _register_webhooks(deliveries, underway)
    DBOS.launch()
    await DBOS.register_queue_async(
        QUEUE,
        worker_concurrency=settings.running_jobs,
        polling_interval_sec=settings.poll_s,
    )
    await DBOS.register_queue_async(
        WEBHOOKS, worker_concurrency=CALLS, polling_interval_sec=WEBHOOKS_POLL_S
    )
    try:
        yield
    finally:
        await underway.put_down()
        await asyncio.to_thread(DBOS.destroy)
        # DBOS has made its own the loop's executor, and shut it down.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())


class _Underway:
    """The runs of workflows in this process."""

    def __init__(self) -> None:
        self._runs: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Around each run of a workflow, so that `put_down` finds it."""
        run = asyncio.current_task()
        if run is None or self._is_stopping:
            raise asyncio.CancelledError
        self._runs.add(run)
        try:
            yield
        finally:
            self._runs.discard(run)

    async def put_down(self) -> None:
        """Stop every workflow where it is; the next start of the server takes them up again.

        A cancelled run records no outcome, where one that loses its workers would have failed.
        """
        self._is_stopping = True
        runs = list(self._runs)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)


def _register(steps: JobSteps, underway: _Underway, traces: Tracing) -> None:
    """Tell DBOS the workflow of jobs, under names that outlive this process."""

    @_lasting("run")
    async def run(job_id: str, attempt: int) -> None:
        try:
            with traces.span("job", {"job_id": job_id, "attempt": attempt}):
                await steps.run(job_id, attempt)
        except Exception as error:
            if _is_passing(error):
                await steps.trouble(job_id, error)
            raise

    @_lasting("fail")
    async def fail(job_id: str, attempt: int, code: str, detail: str) -> None:
        await steps.fail(job_id, attempt, code, detail)

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=RECOVERIES)
    async def run_job(job_id: str, attempt: int) -> None:
        with underway.noted(), logs.job_context(job_id):
            try:
                await run(job_id, attempt)
            except (PaletteryError, engine_errors.DBOSMaxStepRetriesExceeded) as error:
                told = _last(error)
                await fail(job_id, attempt, told.code, told.detail)
            except engine_errors.DBOSException:
                raise  # the engine's own business: cancelled, or taken over by another process
            except Exception:
                log.exception("job %s failed for a reason we did not foresee", job_id)
                await fail(job_id, attempt, UNFORESEEN.code, UNFORESEEN.detail)


def _register_webhooks(deliveries: WebhookDeliveries, underway: _Underway) -> None:
    """Tell DBOS the workflow of one call of a webhook; each that fails begins the next one."""

    @_lasting("call")
    async def call(*said: Any) -> DeliveryOutcome | None:
        return await deliveries.call(WorkflowCall(*said))

    @_lasting("conclude")
    async def conclude(outcome: Sequence[Any], *said: Any) -> None:
        await deliveries.conclude(WorkflowCall(*said), DeliveryOutcome(*outcome))

    @DBOS.workflow(name=WEBHOOKS, max_recovery_attempts=RECOVERIES)
    async def call_webhook(job_id: str, attempt: int, number: int, tries: int) -> None:
        said = (job_id, attempt, number, tries)
        with underway.noted():
            outcome = await call(*said)
            if outcome is not None:
                await conclude(outcome, *said)


def _lasting(name: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A step that is tried again while something is away."""
    return DBOS.step(
        name=name,
        preemptible=True,
        retries_allowed=True,
        interval_seconds=EVERY_S,
        backoff_rate=1.0,
        max_attempts=ATTEMPTS,
        should_retry=_is_passing,
    )


def _last(error: Exception) -> PaletteryError:
    """What to tell of a step that failed: the error of its last attempt."""
    if isinstance(error, engine_errors.DBOSMaxStepRetriesExceeded):
        log.error("a job was given up after %d attempts", ATTEMPTS, exc_info=error)
        error = error.errors[-1]
    return error if isinstance(error, PaletteryError) else UNFORESEEN


def _is_passing(error: BaseException) -> bool:
    """Whether another attempt may help: the network, the store, a scheduler that went away."""
    if isinstance(error, PaletteryError):
        return isinstance(error, Unavailable) and type(error).code not in FINAL
    return isinstance(error, OSError | asyncio.TimeoutError)


FINAL = frozenset({"storage_full", "object_missing"})
"""Codes of what is away for good, until somebody does something."""
