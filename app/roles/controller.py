"""What runs jobs: the engine, its workers, and what looks after them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta

from palettery.app.errors import WorkersLost
from palettery.app.execution.cluster import local_workers, remote_workers
from palettery.app.execution.fanout import Workers
from palettery.app.execution.lease import hold_lease
from palettery.app.jobs.expiry import JobExpiry
from palettery.app.jobs.result_repository import ResultRepository
from palettery.app.jobs.result_reuse import ResultReuse
from palettery.app.jobs.steps import JobSteps
from palettery.app.jobs.workflow import running_workflows
from palettery.app.observability.metrics import Gauge
from palettery.app.observability.tracing import Tracing
from palettery.app.roles.services import SharedServices
from palettery.app.system.maintenance import Maintenance
from palettery.app.uploads.expiry import UploadExpiry
from palettery.app.webhooks.deliveries import WebhookDeliveries


@asynccontextmanager
async def controlling(
    of: SharedServices, traces: Tracing, stop: Callable[[], None], *, is_alone: bool
) -> AsyncIterator[Workers]:
    """Jobs of the service, run by this process with these workers.

    `stop` ends the process when it must not go on. `is_alone` says that it is all of the service.

    Raises:
        BadInput: another process has our executor id.
    """
    settings, metrics = of.settings, of.metrics
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(hold_lease(of.database, settings.executor_id, stop))
        orphan_age = timedelta(seconds=settings.orphan_age_s)
        unused = UploadExpiry(of.files, of.sessions, of.models, of.store, orphan_age)
        if is_alone and settings.storage_url is None:
            # What a crash cut off; nobody else works here.
            await asyncio.to_thread(unused.remove_orphans, timedelta(0))
        hire = remote_workers if settings.scheduler_url else local_workers
        workers = await stack.enter_async_context(hire(settings, metrics, traces))
        with suppress(WorkersLost):  # it may come later; jobs wait for it
            await workers.connect()
        reuse = ResultReuse(ResultRepository(of.database), of.jobs, of.store, of.documents)
        steps = JobSteps(settings, of.jobs, of.events, of.store, workers, reuse, metrics)
        deliveries = WebhookDeliveries(settings, of.events, of.webhooks, of.engine)
        workflows = running_workflows(settings, of.database, steps, deliveries, traces)
        await stack.enter_async_context(workflows)
        sweep = JobExpiry(of.jobs, of.changes, unused, of.store, of.control.delete, orphan_age)
        keeper = Maintenance(
            settings,
            of.jobs,
            of.controllers,
            of.engine,
            of.control,
            sweep,
            workers,
            of.turns,
            of.reserve,
        )
        stack.push_async_callback(_ended, asyncio.create_task(keeper.run()))
        metrics.registry.register(Gauge("workers", "Workers of the scheduler.", workers.states))
        yield workers


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
