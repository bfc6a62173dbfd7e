"""Services that all roles share: settings, object store, database and repositories."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from palettery.app.calibrations.repository import CalibrationRepository
from palettery.app.database.engine import Database, open_database
from palettery.app.database.migrations import MigrationResult, check_migrated
from palettery.app.database.migrations import migrate as migrate_tables
from palettery.app.evaluations.repository import EvaluationRepository
from palettery.app.events.job_changes import JobChangeRepository
from palettery.app.events.repository import EventRepository
from palettery.app.execution.controllers import ControllerRepository
from palettery.app.execution.engine import Engine, migrate_engine
from palettery.app.execution.fair_queue import OwnerTurns
from palettery.app.files.repository import FileRepository
from palettery.app.jobs.lifecycle import JobLifecycle
from palettery.app.jobs.repository import JobRepository
from palettery.app.models.repository import ModelRepository
from palettery.app.observability.metrics import Metrics
from palettery.app.sandbox.document_pool import DocumentPool
from palettery.app.settings import Settings
from palettery.app.storage.base import Storage
from palettery.app.storage.disk_reserve import DiskReserve
from palettery.app.storage.open import open_storage
from palettery.app.uploads.repository import UploadRepository
from palettery.app.webhooks.repository import WebhookRepository

Role = Literal["all", "api", "controller"]
"""`all` is the whole service in one process; `api` handles requests; `controller` runs jobs."""


@dataclass(frozen=True)
class SharedServices:
    """Services that all roles share."""

    settings: Settings
    reserve: DiskReserve
    store: Storage
    database: Database
    engine: Engine
    metrics: Metrics
    documents: DocumentPool
    jobs: JobRepository
    evaluations: EvaluationRepository
    calibrations: CalibrationRepository
    turns: OwnerTurns
    files: FileRepository
    models: ModelRepository
    sessions: UploadRepository
    events: EventRepository
    changes: JobChangeRepository
    webhooks: WebhookRepository
    controllers: ControllerRepository
    control: JobLifecycle


@asynccontextmanager
async def shared_services(settings: Settings, role: Role) -> AsyncIterator[SharedServices]:
    """Open the shared services; the role `all` migrates the database.

    Raises:
        BadInput: the database has another version, and this role does not migrate it.
    """
    async with AsyncExitStack() as stack:
        reserve = DiskReserve(settings)
        reserve.release()
        store = open_storage(settings.resolved_storage_url())
        database = open_database(settings.resolved_database_url())
        stack.callback(database.close)
        await asyncio.to_thread(migrate if role == "all" else check_migrated, database)
        documents = DocumentPool(settings.limits)
        stack.push_async_callback(documents.close)
        metrics, engine, files = Metrics(), Engine(database), FileRepository(database)
        stack.callback(engine.close)
        turns = OwnerTurns(database, settings.owner_weights, engine.move)
        jobs = JobRepository(
            database, notify=engine.call_webhook, on_end=metrics.job_ended, turns=turns
        )
        yield SharedServices(
            settings=settings,
            reserve=reserve,
            store=store,
            database=database,
            engine=engine,
            metrics=metrics,
            documents=documents,
            jobs=jobs,
            evaluations=EvaluationRepository(database),
            calibrations=CalibrationRepository(database),
            turns=turns,
            files=files,
            models=ModelRepository(database, timedelta(days=settings.retain_days)),
            sessions=UploadRepository(
                database, timedelta(hours=settings.upload_hours), limits=settings.limits
            ),
            events=EventRepository(database),
            changes=JobChangeRepository(database),
            webhooks=WebhookRepository(database),
            controllers=ControllerRepository(database),
            control=JobLifecycle(settings, jobs, files, store, engine),
        )


def migrate(database: Database) -> MigrationResult:
    """Migrate our tables and the engine's to this version.

    Raises:
        BadInput: the database is newer than this version; nothing was changed.
    """
    migrated = migrate_tables(database)
    migrate_engine(database)
    return migrated
