"""Durable workflows of jobs and webhooks, run by DBOS.

An interrupted workflow runs again, and continues from the parts, or the report, in the store.
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
from palettery.app.evaluations.steps import EvaluationSteps
from palettery.app.execution.engine import (
    EVALUATIONS,
    QUEUE,
    WEBHOOKS,
    WORKFLOW,
    WorkflowCall,
    configure,
)
from palettery.app.jobs.steps import JobSteps
from palettery.app.observability import logging as logs
from palettery.app.observability.tracing import Tracing
from palettery.app.settings import Settings
from palettery.app.webhooks.deliveries import DeliveryOutcome, WebhookDeliveries

RETRY_INTERVAL_S, ATTEMPTS = 2.0, 450
"""Interval and number of attempts at a step: an outage may last a quarter of an hour."""
CONCURRENT_CALLS = 32
"""Number of webhooks that a process calls concurrently."""
SLOW_POLL_S = 0.5
"""Interval at which queues are polled whose work may start later; each poll costs milliseconds."""
MAX_RECOVERIES = 100
"""Crashes of the process that runs a job after which the job is no longer recovered."""

_P = ParamSpec("_P")
_R = TypeVar("_R")

UNEXPECTED = PaletteryError("the job failed by an internal error; the server's log has the details")

log = logging.getLogger(__name__)


@asynccontextmanager
async def running_workflows(
    settings: Settings,
    database: Database,
    steps: JobSteps,
    evaluations: EvaluationSteps,
    deliveries: WebhookDeliveries,
    traces: Tracing,
) -> AsyncIterator[None]:
    """Run the engine: recover workflows after a crash, then serve the queues."""
    DBOS(config=configure(settings, database))
    runs = _Runs()
    _register(steps, runs, traces)
    _register_evaluations(evaluations, runs)
    _register_webhooks(deliveries, runs)
    DBOS.launch()
    await DBOS.register_queue_async(
        QUEUE,
        worker_concurrency=settings.running_jobs,
        polling_interval_sec=settings.poll_s,
    )
    await DBOS.register_queue_async(
        EVALUATIONS,
        worker_concurrency=settings.running_jobs,
        polling_interval_sec=max(settings.poll_s, SLOW_POLL_S),
    )
    await DBOS.register_queue_async(
        WEBHOOKS, worker_concurrency=CONCURRENT_CALLS, polling_interval_sec=SLOW_POLL_S
    )
    try:
        yield
    finally:
        await runs.interrupt()
        await asyncio.to_thread(DBOS.destroy)
        # DBOS has replaced the loop's executor by its own, and shut that down.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())


class _Runs:
    """Runs of workflows in this process."""

    def __init__(self) -> None:
        self._runs: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """Track the current task as a run of a workflow."""
        run = asyncio.current_task()
        if run is None or self._is_stopping:
            raise asyncio.CancelledError
        self._runs.add(run)
        try:
            yield
        finally:
            self._runs.discard(run)

    async def interrupt(self) -> None:
        """Cancel every run; the next start of the server recovers the workflows.

        A cancelled run records no outcome; one that lost its workers would fail.
        """
        self._is_stopping = True
        runs = list(self._runs)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)


def _register(steps: JobSteps, runs: _Runs, traces: Tracing) -> None:
    """Register the workflow of jobs with DBOS, under names that are stored."""

    @_retried_step("run")
    async def run(job_id: str, attempt: int) -> None:
        try:
            with traces.span("job", {"job_id": job_id, "attempt": attempt}):
                await steps.run(job_id, attempt)
        except Exception as error:
            if _is_transient(error):
                await steps.log_retry(job_id, error)
            raise

    @_retried_step("fail")
    async def fail(job_id: str, attempt: int, code: str, detail: str) -> None:
        await steps.fail(job_id, attempt, code, detail)

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=MAX_RECOVERIES)
    async def run_job(job_id: str, attempt: int) -> None:
        with runs.tracked(), logs.job_context(job_id):
            try:
                await run(job_id, attempt)
            except (PaletteryError, engine_errors.DBOSMaxStepRetriesExceeded) as error:
                last = _last_error(error)
                await fail(job_id, attempt, last.code, last.detail)
            except engine_errors.DBOSException:
                raise  # the engine handles it: cancelled, or recovered by another process
            except Exception:
                log.exception("job %s failed with an unexpected error", job_id)
                await fail(job_id, attempt, UNEXPECTED.code, UNEXPECTED.detail)


def _register_evaluations(steps: EvaluationSteps, runs: _Runs) -> None:
    """Register the workflow of evaluations that are no part of a job with DBOS."""

    @_retried_step("evaluate")
    async def evaluate(evaluation_id: str) -> None:
        await steps.run(evaluation_id)

    @_retried_step("fail_evaluation")
    async def fail(evaluation_id: str, code: str, detail: str) -> None:
        await steps.fail(evaluation_id, code, detail)

    @DBOS.workflow(name=EVALUATIONS, max_recovery_attempts=MAX_RECOVERIES)
    async def run_evaluation(evaluation_id: str) -> None:
        with runs.tracked():
            try:
                await evaluate(evaluation_id)
            except (PaletteryError, engine_errors.DBOSMaxStepRetriesExceeded) as error:
                last = _last_error(error)
                await fail(evaluation_id, last.code, last.detail)
            except engine_errors.DBOSException:
                raise  # the engine handles it: cancelled, or recovered by another process
            except Exception:
                log.exception("evaluation %s failed with an unexpected error", evaluation_id)
                await fail(evaluation_id, UNEXPECTED.code, UNEXPECTED.detail)


def _register_webhooks(deliveries: WebhookDeliveries, runs: _Runs) -> None:
    """Register the workflow of a webhook call with DBOS; a failed call starts the next one."""

    @_retried_step("call")
    async def call(*arguments: Any) -> DeliveryOutcome | None:
        return await deliveries.call(WorkflowCall(*arguments))

    @_retried_step("conclude")
    async def conclude(outcome: Sequence[Any], *arguments: Any) -> None:
        await deliveries.conclude(WorkflowCall(*arguments), DeliveryOutcome(*outcome))

    @DBOS.workflow(name=WEBHOOKS, max_recovery_attempts=MAX_RECOVERIES)
    async def call_webhook(job_id: str, attempt: int, number: int, tries: int) -> None:
        arguments = (job_id, attempt, number, tries)
        with runs.tracked():
            outcome = await call(*arguments)
            if outcome is not None:
                await conclude(outcome, *arguments)


def _retried_step(name: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a step that is retried while a dependency is unavailable."""
    return DBOS.step(
        name=name,
        preemptible=True,
        retries_allowed=True,
        interval_seconds=RETRY_INTERVAL_S,
        backoff_rate=1.0,
        max_attempts=ATTEMPTS,
        should_retry=_is_transient,
    )


def _last_error(error: Exception) -> PaletteryError:
    """Return the error of a failed step: that of its last attempt."""
    if isinstance(error, engine_errors.DBOSMaxStepRetriesExceeded):
        log.error("a job failed after %d attempts at a step", ATTEMPTS, exc_info=error)
        error = error.errors[-1]
    return error if isinstance(error, PaletteryError) else UNEXPECTED


def _is_transient(error: BaseException) -> bool:
    """Return whether a retry may help: network, store or scheduler were unavailable."""
    if isinstance(error, PaletteryError):
        return isinstance(error, Unavailable) and type(error).code not in NOT_RETRIED
    return isinstance(error, OSError | asyncio.TimeoutError)


NOT_RETRIED = frozenset({"storage_full", "object_missing"})
"""Codes of errors that last until somebody acts, so that steps are not retried."""
