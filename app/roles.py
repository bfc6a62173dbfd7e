"""What a process of the service consists of: everything, the API alone, or a controller."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Literal, TypedDict

from app.configs.records import ConfigRecords
from app.configs.service import Configs
from app.database import Database, open_database
from app.errors import BadInput, WorkersLost
from app.events.records import Events
from app.events.streams import Streams
from app.health import Health, health_of
from app.jobs.cluster import local_workers, remote_workers
from app.jobs.control import Control
from app.jobs.controllers import Controllers
from app.jobs.engine import Engine, migrate_engine
from app.jobs.keeper import Keeper
from app.jobs.lease import leased
from app.jobs.orders import Orders
from app.jobs.records import Records
from app.jobs.service import Jobs
from app.jobs.steps import Steps
from app.jobs.sweep import Sweep
from app.jobs.workflow import running_workflows
from app.keys.records import KeyRecords
from app.keys.service import Keys
from app.metrics import Gauge, Metrics
from app.migrations import Migrated, check_migrated
from app.migrations import migrate as migrate_ours
from app.models.records import ModelRecords
from app.models.service import Models
from app.readers import Readers
from app.results.records import ResultRecords
from app.results.reuse import Reuse
from app.settings import Settings
from app.storage import Storage, open_storage
from app.tracing import Tracing
from app.uploads.completion import Completion
from app.uploads.records import FileRecords
from app.uploads.service import Uploads
from app.uploads.sessions import UploadSessions
from app.uploads.sweep import UploadSweep
from app.webhooks.deliveries import Deliveries
from app.webhooks.records import WebhookRecords

Role = Literal["all", "api", "controller"]
"""`all` is the service in one process; `api` answers requests, and `controller` runs jobs."""


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
    webhooks: WebhookRecords
    health: Health
    metrics: Metrics


def check(settings: Settings, role: Role) -> None:
    """See that a role's settings fit together.

    Raises:
        BadInput: names the one that is missing.
    """
    if role == "all":
        return
    given = {
        "PALETTERY_DATABASE_URL": settings.database_url,
        "PALETTERY_STORAGE_URL": settings.storage_url,
    }
    if role == "controller":
        given["PALETTERY_SCHEDULER_URL"] = settings.scheduler_url
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise BadInput(f"--role {role} shares its work with other processes; set {missing[0]}")
    if (settings.database_url or "").startswith("sqlite"):
        raise BadInput(f"--role {role} needs Postgres; PALETTERY_DATABASE_URL is of SQLite")


@asynccontextmanager
async def running(
    settings: Settings, role: Role, traces: Tracing, stop: Callable[[], None]
) -> AsyncIterator[State]:
    """A role at work; `stop` ends the process when it must not go on.

    Raises:
        BadInput: the database is not at this version, another process has our executor id, or the
            address is not loopback and there are no keys.
    """
    async with AsyncExitStack() as stack:
        store = open_storage(settings.resolved_storage_url())
        database = open_database(settings.resolved_database_url())
        stack.callback(database.close)
        if role == "all":
            await asyncio.to_thread(migrate, database)
        else:
            await asyncio.to_thread(check_migrated, database)
        keys = Keys(settings, KeyRecords(database))
        if role != "controller":  # which says nothing but how it is
            await asyncio.to_thread(keys.check_address)
        metrics = Metrics()
        engine = Engine(database)
        stack.callback(engine.close)
        records = Records(database, notify=engine.call_webhook, on_end=metrics.job_ended)
        files, webhooks = FileRecords(database), WebhookRecords(database)
        events = Events(database)
        model_records = ModelRecords(database, timedelta(days=settings.retain_days))
        models = Models(settings.limits, model_records, files, store)
        sessions = UploadSessions(database, timedelta(hours=settings.upload_hours))
        readers = Readers()
        controllers = Controllers(database)
        control = Control(settings, records, files, store, engine)
        count_workers = controllers.workers
        if role != "api":
            await stack.enter_async_context(leased(database, settings.executor_id, stop))
            orphan_age = timedelta(seconds=settings.orphan_age_s)
            unused = UploadSweep(files, sessions, model_records, store, orphan_age)
            sweep = Sweep(records, unused, store, control.delete, orphan_age)
            if role == "all" and settings.storage_url is None:
                # What a crash cut off; nobody else works here.
                await asyncio.to_thread(unused.remove_orphans, timedelta(0))
            hire = remote_workers if settings.scheduler_url else local_workers
            workers = await stack.enter_async_context(hire(settings, metrics, traces))
            with suppress(WorkersLost):  # it may come later; jobs wait for it
                await workers.reach()
            reuse = Reuse(ResultRecords(database), records, store)
            deliveries = Deliveries(settings, events, webhooks, engine)
            steps = Steps(settings, records, events, store, workers, reuse, metrics)
            workflows = running_workflows(settings, database, steps, deliveries, traces)
            await stack.enter_async_context(workflows)
            keeper = Keeper(settings, records, controllers, engine, control, sweep, workers)
            stack.push_async_callback(_ended, asyncio.create_task(keeper.run()))
            count_workers = workers.count
            metrics.registry.register(Gauge("workers", "Workers of the scheduler.", workers.states))
        completion = Completion(sessions, models, model_records, files, store)
        stack.push_async_callback(completion.stop)
        metrics.registry.register(Gauge("jobs", "Jobs that there are.", records.counts))
        health = health_of(database, store, count_workers)
        stack.callback(health.close)
        configs = Configs(ConfigRecords(database), readers, settings.limits.config_bytes)
        orders = Orders(settings.limits, store, models, configs, readers)
        jobs = Jobs(settings, records, files, store, engine, control, orders, readers)
        yield State(
            keys=keys,
            jobs=jobs,
            models=models,
            uploads=Uploads(settings.limits, sessions, model_records, store, completion),
            configs=configs,
            database=database,
            store=store,
            events=events,
            streams=Streams(events),
            webhooks=webhooks,
            health=health,
            metrics=metrics,
        )


def migrate(database: Database) -> Migrated:
    """Bring a database to what this version needs, our tables and the engine's.

    Raises:
        BadInput: it is newer than this version; nothing was changed.
    """
    done = migrate_ours(database)
    migrate_engine(database)
    return done


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
