"""What every role has: the store, the database, and what is written in them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from app.database import Database, open_database
from app.document_pool import DocumentPool
from app.events.changes import Changes
from app.events.records import Events
from app.jobs.control import Control
from app.jobs.controllers import Controllers
from app.jobs.engine import Engine, migrate_engine
from app.jobs.records import Records
from app.jobs.turns import Turns
from app.metrics import Metrics
from app.migrations import Migrated, check_migrated
from app.migrations import migrate as migrate_ours
from app.models.records import ModelRecords
from app.reserve import Reserve
from app.settings import Settings
from app.storage import Storage, open_storage
from app.uploads.records import FileRecords
from app.uploads.sessions import UploadSessions
from app.webhooks.records import WebhookRecords

Role = Literal["all", "api", "controller"]
"""`all` is the service in one process; `api` answers requests, and `controller` runs jobs."""


@dataclass(frozen=True)
class Shared:
    """One service, as each of its processes knows it."""

    settings: Settings
    reserve: Reserve
    store: Storage
    database: Database
    engine: Engine
    metrics: Metrics
    documents: DocumentPool
    jobs: Records
    turns: Turns
    files: FileRecords
    models: ModelRecords
    sessions: UploadSessions
    events: Events
    changes: Changes
    webhooks: WebhookRecords
    controllers: Controllers
    control: Control


@asynccontextmanager
async def shared(settings: Settings, role: Role) -> AsyncIterator[Shared]:
    """The service, its database at this version.

    Raises:
        BadInput: the database is at another version, and this role does not change that.
    """
    async with AsyncExitStack() as stack:
        reserve = Reserve(settings)
        reserve.give_up()
        store = open_storage(settings.resolved_storage_url())
        database = open_database(settings.resolved_database_url())
        stack.callback(database.close)
        await asyncio.to_thread(migrate if role == "all" else check_migrated, database)
        documents = DocumentPool(settings.limits)
        stack.push_async_callback(documents.close)
        metrics, engine, files = Metrics(), Engine(database), FileRecords(database)
        stack.callback(engine.close)
        turns = Turns(database, settings.owner_weights, engine.move)
        jobs = Records(database, notify=engine.call_webhook, on_end=metrics.job_ended, turns=turns)
        yield Shared(
            settings=settings,
            reserve=reserve,
            store=store,
            database=database,
            engine=engine,
            metrics=metrics,
            documents=documents,
            jobs=jobs,
            turns=turns,
            files=files,
            models=ModelRecords(database, timedelta(days=settings.retain_days)),
            sessions=UploadSessions(
                database, timedelta(hours=settings.upload_hours), limits=settings.limits
            ),
            events=Events(database),
            changes=Changes(database),
            webhooks=WebhookRecords(database),
            controllers=Controllers(database),
            control=Control(settings, jobs, files, store, engine),
        )


def migrate(database: Database) -> Migrated:
    """Bring a database to what this version needs, our tables and the engine's.

    Raises:
        BadInput: it is newer than this version; nothing was changed.
    """
    done = migrate_ours(database)
    migrate_engine(database)
    return done
