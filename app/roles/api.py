"""What answers requests: all that endpoints ask."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypedDict

from palettery.app.configs.repository import ConfigRecords
from palettery.app.configs.service import Configs
from palettery.app.database.engine import Database
from palettery.app.events.live_lists import Live
from palettery.app.events.repository import Events
from palettery.app.events.stream_limits import Places
from palettery.app.events.streams import Streams
from palettery.app.execution.fanout import Workers
from palettery.app.jobs.request_parsing import Orders
from palettery.app.jobs.service import Jobs
from palettery.app.keys.service import Keys
from palettery.app.models.service import Models
from palettery.app.observability.metrics import Gauge, Metrics
from palettery.app.roles.services import Role, Shared
from palettery.app.sandbox.document_pool import DocumentPool
from palettery.app.storage.base import Storage
from palettery.app.storage.reserve import Reserve
from palettery.app.system.health import Health, health_of
from palettery.app.system.overview import Overview
from palettery.app.system.upkeep import keep_up
from palettery.app.uploads.completion import Completion
from palettery.app.uploads.service import Uploads
from palettery.app.webhooks.repository import WebhookRecords


class State(TypedDict):
    """What endpoints find in `request.state`."""

    keys: Keys
    jobs: Jobs
    models: Models
    uploads: Uploads
    configs: Configs
    database: Database
    documents: DocumentPool
    reserve: Reserve
    store: Storage
    events: Events
    streams: Streams
    live: Live
    places: Places
    webhooks: WebhookRecords
    health: Health
    overview: Overview
    metrics: Metrics


@asynccontextmanager
async def answering(
    of: Shared, role: Role, keys: Keys, workers: Workers | None
) -> AsyncIterator[State]:
    """The state of a server, with the workers that this process has, if it has any."""
    limits, documents = of.settings.limits, of.documents
    async with AsyncExitStack() as stack:
        models = Models(limits, of.models, of.files, of.store, documents)
        completion = Completion(of.sessions, models, of.models, of.files, of.store)
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
        configs = Configs(ConfigRecords(of.database), documents, limits.config_bytes)
        orders = Orders(limits, of.store, models, configs, documents)
        jobs = Jobs(
            of.settings, of.jobs, of.files, of.store, of.engine, of.control, orders, documents
        )
        see_workers = workers.processes if workers else None
        overview = Overview(role, of.database, of.store, of.controllers, keys, see_workers)
        yield State(
            keys=keys,
            jobs=jobs,
            models=models,
            uploads=Uploads(limits, of.sessions, of.models, of.store, completion),
            configs=configs,
            database=of.database,
            documents=documents,
            reserve=of.reserve,
            store=of.store,
            events=of.events,
            streams=Streams(of.events),
            live=Live(of.changes),
            places=Places(of.settings.clients),
            webhooks=of.webhooks,
            health=health,
            overview=overview,
            metrics=of.metrics,
        )


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
