"""What answers requests: all that endpoints ask."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypedDict

from palettery.app.configs.repository import ConfigRepository
from palettery.app.configs.service import ConfigService
from palettery.app.database.engine import Database
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
from palettery.app.roles.services import Role, SharedServices
from palettery.app.sandbox.document_pool import DocumentPool
from palettery.app.storage.base import Storage
from palettery.app.storage.reserve import Reserve
from palettery.app.system.health import Health, health_of
from palettery.app.system.overview import Overview
from palettery.app.system.upkeep import keep_up
from palettery.app.uploads.completion import UploadCompletion
from palettery.app.uploads.service import UploadService
from palettery.app.webhooks.repository import WebhookRepository


class ServiceState(TypedDict):
    """What endpoints find in `request.state`."""

    keys: KeyService
    jobs: JobService
    models: ModelService
    uploads: UploadService
    configs: ConfigService
    database: Database
    documents: DocumentPool
    reserve: Reserve
    store: Storage
    events: EventRepository
    streams: JobStreams
    live: ListStreams
    places: StreamLimits
    webhooks: WebhookRepository
    health: Health
    overview: Overview
    metrics: Metrics


@asynccontextmanager
async def answering(
    of: SharedServices, role: Role, keys: KeyService, workers: Workers | None
) -> AsyncIterator[ServiceState]:
    """The state of a server, with the workers that this process has, if it has any."""
    limits, documents = of.settings.limits, of.documents
    async with AsyncExitStack() as stack:
        models = ModelService(limits, of.models, of.files, of.store, documents)
        completion = UploadCompletion(of.sessions, models, of.models, of.files, of.store)
        stack.push_async_callback(completion.stop)
        of.metrics.registry.register(Gauge("jobs", "Jobs that there are.", of.jobs.counts))
        count_workers = workers.count if workers else of.controllers.workers
        reads = role != "controller"
        health = health_of(of.database, of.store, count_workers, documents if reads else None)
        stack.callback(health.close)
        upkeep = keep_up(of.database, of.settings.sweep_every_s)
        stack.push_async_callback(_ended, asyncio.create_task(upkeep))
        if reads:  # the first request need not wait for a process to start
            stack.push_async_callback(_ended, asyncio.create_task(documents.check()))
        configs = ConfigService(ConfigRepository(of.database), documents, limits.config_bytes)
        orders = RequestParser(limits, of.store, models, configs, documents)
        jobs = JobService(
            of.settings, of.jobs, of.files, of.store, of.engine, of.control, orders, documents
        )
        see_workers = workers.processes if workers else None
        overview = Overview(role, of.database, of.store, of.controllers, keys, see_workers)
        yield ServiceState(
            keys=keys,
            jobs=jobs,
            models=models,
            uploads=UploadService(limits, of.sessions, of.models, of.store, completion),
            configs=configs,
            database=of.database,
            documents=documents,
            reserve=of.reserve,
            store=of.store,
            events=of.events,
            streams=JobStreams(of.events),
            live=ListStreams(of.changes),
            places=StreamLimits(of.settings.clients),
            webhooks=of.webhooks,
            health=health,
            overview=overview,
            metrics=of.metrics,
        )


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
