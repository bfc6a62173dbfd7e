"""Controller of jobs: the durable engine, its workers and periodic maintenance."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta

from palettery.app.calibrations.steps import CalibrationSteps
from palettery.app.errors import WorkersLost
from palettery.app.evaluations.steps import EvaluationSteps
from palettery.app.execution.cluster import local_workers, remote_workers
from palettery.app.execution.executor_lease import hold_lease
from palettery.app.execution.fanout import Workers
from palettery.app.jobs.assembly import Assembly
from palettery.app.jobs.expiry import JobExpiry
from palettery.app.jobs.quality_steps import QualitySteps
from palettery.app.jobs.result_repository import ResultRepository
from palettery.app.jobs.result_reuse import ResultReuse
from palettery.app.jobs.steps import JobSteps
from palettery.app.jobs.target_steps import TargetSteps
from palettery.app.jobs.workflow import running_workflows
from palettery.app.observability.metrics import Gauge
from palettery.app.observability.tracing import Tracing
from palettery.app.roles.background import background_task
from palettery.app.roles.shared_services import SharedServices
from palettery.app.system.maintenance import ControllerMaintenance
from palettery.app.uploads.expiry import UploadExpiry
from palettery.app.webhooks.deliveries import WebhookDeliveries


@asynccontextmanager
async def run_controller(
    shared: SharedServices, traces: Tracing, stop: Callable[[], None], *, is_alone: bool
) -> AsyncIterator[Workers]:
    """Run jobs in this process, and return its workers.

    `stop` ends the process, such as after the lease is lost. `is_alone` means that no other process
    belongs to the service.

    Raises:
        BadInput: another process has the same executor id.
    """
    settings, metrics = shared.settings, shared.metrics
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(hold_lease(shared.database, settings.executor_id, stop))
        orphan_age = timedelta(seconds=settings.orphan_age_s)
        uploads = UploadExpiry(
            shared.files, shared.sessions, shared.models, shared.store, orphan_age
        )
        if is_alone and settings.storage_url is None:
            # Left by a crash; no other process uses the store.
            await asyncio.to_thread(uploads.remove_orphans, timedelta(0))
        start_workers = remote_workers if settings.scheduler_url else local_workers
        workers = await stack.enter_async_context(start_workers(settings, metrics, traces))
        with suppress(WorkersLost):  # jobs wait until it is reachable
            await workers.connect()
        reuse = ResultReuse(
            ResultRepository(shared.database), shared.jobs, shared.store, shared.documents
        )
        evaluations = EvaluationSteps(shared.evaluations, shared.files, shared.store, workers)
        assembly = Assembly(shared.store, workers)
        quality = QualitySteps(
            settings,
            shared.jobs,
            shared.store,
            workers,
            shared.documents,
            assembly,
            evaluations,
            reuse,
            metrics,
        )
        targets = TargetSteps(
            settings, shared.jobs, shared.store, workers, shared.documents, quality
        )
        calibrations = CalibrationSteps(
            settings, shared.jobs, shared.calibrations, shared.events, shared.store, workers
        )
        steps = JobSteps(
            settings,
            shared.jobs,
            shared.events,
            shared.store,
            workers,
            assembly,
            targets,
            reuse,
            evaluations,
            metrics,
            calibrations.run,
        )
        deliveries = WebhookDeliveries(settings, shared.events, shared.webhooks, shared.engine)
        workflows = running_workflows(
            settings, shared.database, steps, evaluations, deliveries, traces
        )
        await stack.enter_async_context(workflows)
        expiry = JobExpiry(
            shared.jobs,
            shared.changes,
            uploads,
            shared.store,
            shared.control.delete,
            orphan_age,
            timedelta(days=settings.retain_days),
        )
        maintenance = ControllerMaintenance(
            settings,
            shared.jobs,
            shared.controllers,
            shared.engine,
            shared.control,
            expiry,
            workers,
            shared.turns,
            shared.reserve,
        )
        await stack.enter_async_context(background_task(maintenance.run()))
        metrics.registry.register(Gauge("workers", "Workers by state.", workers.states))
        yield workers
