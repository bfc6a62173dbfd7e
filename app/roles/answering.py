"""What answers requests: all that endpoints ask."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypedDict

from app.configs.records import ConfigRecords
from app.configs.service import Configs
from app.database import Database
from app.events.live import Live
from app.events.records import Events
from app.events.streams import Streams
from app.health import Health, health_of
from app.jobs.orders import Orders
from app.jobs.service import Jobs
from app.keys.service import Keys
from app.metrics import Gauge, Metrics
from app.models.service import Models
from app.readers import Readers
from app.roles.shared import Shared
from app.storage import Storage
from app.uploads.completion import Completion
from app.uploads.service import Uploads
from app.webhooks.records import WebhookRecords


class State(TypedDict):
    """What endpoints find in `request.state`."""

    keys: Keys
    jobs: Jobs
    models: Models
    uploads: Uploads
    configs: Configs
    database: Database
    store: Storage
    events: Events
    streams: Streams
    live: Live
    webhooks: WebhookRecords
    health: Health
    metrics: Metrics


@asynccontextmanager
async def answering(
    of: Shared, keys: Keys, count_workers: Callable[[], int]
) -> AsyncIterator[State]:
    """The state of a server."""
    limits, readers = of.settings.limits, Readers()
    async with AsyncExitStack() as stack:
        models = Models(limits, of.models, of.files, of.store, readers)
        completion = Completion(of.sessions, models, of.models, of.files, of.store)
        stack.push_async_callback(completion.stop)
        of.metrics.registry.register(Gauge("jobs", "Jobs that there are.", of.jobs.counts))
        health = health_of(of.database, of.store, count_workers)
        stack.callback(health.close)
        configs = Configs(ConfigRecords(of.database), readers, limits.config_bytes)
        orders = Orders(limits, of.store, models, configs, readers)
        jobs = Jobs(
            of.settings, of.jobs, of.files, of.store, of.engine, of.control, orders, readers
        )
        yield State(
            keys=keys,
            jobs=jobs,
            models=models,
            uploads=Uploads(limits, of.sessions, of.models, of.store, completion),
            configs=configs,
            database=of.database,
            store=of.store,
            events=of.events,
            streams=Streams(of.events),
            live=Live(of.changes),
            webhooks=of.webhooks,
            health=health,
            metrics=of.metrics,
        )
