"""Services of a process that handles requests."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from palettery.app.calibrations.service import CalibrationService
from palettery.app.configs.repository import ConfigRepository
from palettery.app.configs.service import ConfigService
from palettery.app.evaluations.service import EvaluationService
from palettery.app.events.job_streams import JobStreams
from palettery.app.events.list_streams import ListStreams
from palettery.app.events.repository import EventRepository
from palettery.app.events.stream_limits import StreamLimits
from palettery.app.execution.fanout import Workers
from palettery.app.jobs.request_parsing import RequestParser
from palettery.app.jobs.service import JobService
from palettery.app.keys.service import KeyService
from palettery.app.models.service import ModelService
from palettery.app.observability.metrics import Gauge, Metrics
from palettery.app.roles.background import background_task
from palettery.app.roles.shared_services import Role, SharedServices
from palettery.app.sandbox.document_pool import DocumentPool
from palettery.app.storage.base import Storage
from palettery.app.storage.disk_reserve import DiskReserve
from palettery.app.system.health import Health, build_health
from palettery.app.system.maintenance import maintain_process
from palettery.app.system.overview import Overview
from palettery.app.uploads.completion import UploadCompletion
from palettery.app.uploads.service import UploadService
from palettery.app.webhooks.repository import WebhookRepository


@dataclass(frozen=True)
class ServiceState:
    """Services that endpoints depend on, each with a unique class; see `ServiceLookup`."""

    keys: KeyService
    calibrations: CalibrationService
    jobs: JobService
    evaluations: EvaluationService
    models: ModelService
    uploads: UploadService
    configs: ConfigService
    documents: DocumentPool
    reserve: DiskReserve
    store: Storage
    events: EventRepository
    streams: JobStreams
    live_lists: ListStreams
    stream_limits: StreamLimits
    webhooks: WebhookRepository
    health: Health
    overview: Overview
    metrics: Metrics


@asynccontextmanager
async def api_services(
    shared: SharedServices, role: Role, keys: KeyService, workers: Workers | None
) -> AsyncIterator[ServiceState]:
    """Open the services of a process, with its workers if it has any."""
    limits, documents = shared.settings.limits, shared.documents
    async with AsyncExitStack() as stack:
        models = ModelService(limits, shared.models, shared.files, shared.store, documents)
        completion = UploadCompletion(
            shared.sessions, models, shared.models, shared.files, shared.store
        )
        stack.push_async_callback(completion.stop)
        shared.metrics.registry.register(Gauge("jobs", "Jobs by state.", shared.jobs.counts))
        count_workers = workers.count if workers else shared.controllers.workers
        parses_documents = role != "controller"
        health = build_health(
            shared.database, shared.store, count_workers, documents if parses_documents else None
        )
        stack.callback(health.close)
        maintenance = maintain_process(shared.database, shared.settings.sweep_every_s)
        await stack.enter_async_context(background_task(maintenance))
        if parses_documents:  # start a process before the first request
            await stack.enter_async_context(background_task(documents.check()))
        configs = ConfigService(ConfigRepository(shared.database), documents, limits.config_bytes)
        parser = RequestParser(limits, shared.store, models, configs, documents)
        jobs = JobService(
            shared.settings,
            shared.jobs,
            shared.files,
            shared.store,
            shared.engine,
            shared.control,
            parser,
            documents,
        )
        calibrations = CalibrationService(
            shared.settings,
            shared.calibrations,
            shared.jobs,
            models,
            shared.store,
            shared.engine,
            shared.control,
            documents,
        )
        list_workers = workers.processes if workers else None
        overview = Overview(
            role, shared.database, shared.store, shared.controllers, keys, list_workers
        )
        yield ServiceState(
            keys=keys,
            calibrations=calibrations,
            jobs=jobs,
            evaluations=EvaluationService(
                limits, shared.evaluations, models, shared.store, shared.engine, documents
            ),
            models=models,
            uploads=UploadService(limits, shared.sessions, shared.models, shared.store, completion),
            configs=configs,
            documents=documents,
            reserve=shared.reserve,
            store=shared.store,
            events=shared.events,
            streams=JobStreams(shared.events),
            live_lists=ListStreams(shared.changes),
            stream_limits=StreamLimits(shared.settings.clients),
            webhooks=shared.webhooks,
            health=health,
            overview=overview,
            metrics=shared.metrics,
        )
