"""The durable engine: DBOS, set up once, and what the rest of the service asks of it.

Its tables lie beside ours, so that a job's row and its workflow come to be in one transaction.
Source: docs.dbos.dev, and the measurements in the engine reference.
"""

from collections.abc import Sequence
from typing import Literal

from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, EnqueueOptions
from sqlalchemy.orm import Session

from app.database import Database, reported
from app.settings import Settings

APPLICATION = "palettery"
QUEUE = "jobs"
WORKFLOW = "job"
VERSION = "2"
"""Of the workflow's steps; recovery resumes workflows of its own version only."""
LOWEST_PRIORITY = 10
"""The engine serves low numbers first, from 1; ours are 0 to 9, high ones first."""

Life = Literal["none", "alive", "ended"]
"""Of an attempt's workflow."""


class Engine:
    """Workflows of jobs, from any process; attempts at one job are workflows of their own."""

    def __init__(self, database: Database) -> None:
        self._client = DBOSClient(
            system_database_engine=database.engine,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            lazy=True,
            retry_connection_errors=False,
        )

    def enqueue(self, session: Session, job_id: str, attempt: int, priority: int) -> None:
        """Start an attempt at a job once the session's transaction is through."""
        options = EnqueueOptions(
            workflow_name=WORKFLOW,
            queue_name=QUEUE,
            workflow_id=workflow_id(job_id, attempt),
            app_version=VERSION,
            priority=LOWEST_PRIORITY - priority,
        )
        self._client.enqueue_in_transaction(session, options, job_id, attempt)

    async def cancel(self, job_id: str, attempt: int) -> None:
        """Stop an attempt's workflow, queued or running, wherever it runs."""
        with reported():
            await self._client.cancel_workflow_async(workflow_id(job_id, attempt))

    def lives(self, attempts: Sequence[tuple[str, int]]) -> list[Life]:
        """How it stands with the workflow of each attempt."""
        names = [workflow_id(*attempt) for attempt in attempts]
        with reported():
            found = self._client.list_workflows(
                workflow_ids=names, load_input=False, load_output=False
            )
        states = {workflow.workflow_id: workflow.status for workflow in found}
        return [_life(states.get(name)) for name in names]

    def forget(self, job_id: str, attempts: int) -> None:
        """Delete the workflows of a job's attempts so far."""
        with reported():
            self._client.delete_workflows([workflow_id(job_id, n) for n in range(attempts + 1)])

    def close(self) -> None:
        """Let go of the database."""
        self._client.destroy()


def workflow_id(job_id: str, attempt: int) -> str:
    """Name of the workflow of an attempt at a job."""
    return f"{job_id}-{attempt}"


def migrate_engine(database: Database) -> None:
    """Bring the engine's own tables up to date."""
    url = database.engine.url.render_as_string(hide_password=False)
    DBOS.migrate(url)


def configure(settings: Settings, database: Database) -> DBOSConfig:
    """The engine of a process that runs jobs."""
    return DBOSConfig(
        name=APPLICATION,
        system_database_url=database.engine.url.render_as_string(hide_password=False),
        system_database_engine=database.engine,
        application_version=VERSION,
        executor_id=settings.executor_id,
        serializer=DBOSPortableJSONSerializer(),
        run_migrations=False,
        log_level="ERROR",
        console_log_level="ERROR",
    )


def _life(status: str | None) -> Life:
    if status is None:
        return "none"
    return "alive" if status in ("PENDING", "ENQUEUED", "DELAYED") else "ended"
