"""The durable engine: DBOS, set up once, and what the rest of the service asks of it.

Its tables lie beside ours, so that a job's row and its workflow come to be in one transaction.
Source: docs.dbos.dev, and the measurements in the engine reference.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, EnqueueOptions
from sqlalchemy import column, table, update
from sqlalchemy.orm import Session

from palettery.app.database.engine import Database, chunks, translated_errors
from palettery.app.settings import Settings

APPLICATION = "palettery"
QUEUE = "jobs"
WORKFLOW = "job"
VERSION = "2"
"""Of the workflow's steps; recovery resumes workflows of its own version only."""
FIRST, LAST = 1, (1 << 31) - 1
"""Priorities that the engine takes; it serves low ones first."""

WEBHOOKS = "webhooks"
"""Queue of the calls of webhooks, and name of their workflow."""
MOST_TRIES = 20
"""At calling one webhook that `forget` looks for; there are fewer."""

Life = Literal["none", "alive", "ended"]
"""Of an attempt's workflow."""


class WorkflowCall(NamedTuple):
    """A try at calling a webhook."""

    job_id: str
    attempt: int
    """That has ended."""
    number: int
    """Of the event that tells so."""
    tries: int = 0
    """That have failed before."""

    @property
    def workflow_id(self) -> str:
        """Name of its workflow."""
        return f"{workflow_id(self.job_id, self.attempt)}-webhook-{self.tries}"


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

    def enqueue(self, session: Session, job_id: str, attempt: int, turn: int) -> None:
        """Queue an attempt at a job; it may start once the transaction is through."""
        options = EnqueueOptions(
            workflow_name=WORKFLOW,
            queue_name=QUEUE,
            workflow_id=workflow_id(job_id, attempt),
            app_version=VERSION,
            priority=min(FIRST + turn, LAST),
        )
        self._client.enqueue_in_transaction(session, options, job_id, attempt)

    def move(self, session: Session, attempts: Sequence[tuple[str, int]], by: int) -> None:
        """Have queued attempts served so many turns later, once the transaction is through.

        Source: https://docs.dbos.dev/explanations/system-tables.
        """
        schema = "dbos" if session.get_bind().dialect.name == "postgresql" else None
        workflows = table(
            "workflow_status", column("workflow_uuid"), column("priority"), schema=schema
        )
        for names in chunks([workflow_id(*attempt) for attempt in attempts]):
            change = update(workflows).where(workflows.c.workflow_uuid.in_(names))
            session.connection().execute(change.values(priority=workflows.c.priority + by))

    def call_webhook(self, session: Session, call: WorkflowCall) -> None:
        """Call a webhook once the session's transaction is through."""
        self._client.enqueue_in_transaction(session, _options(call), *call)

    def call_webhook_later(self, call: WorkflowCall, wait_s: float) -> None:
        """Call a webhook in a while; asked for again, it is still called once."""
        options = _options(call)
        options["delay_seconds"] = wait_s
        with translated_errors():
            self._client.enqueue(options, *call)

    async def cancel(self, job_id: str, attempt: int) -> None:
        """Stop an attempt's workflow, queued or running, wherever it runs."""
        with translated_errors():
            await self._client.cancel_workflow_async(workflow_id(job_id, attempt))

    def lives(self, attempts: Sequence[tuple[str, int]]) -> list[Life]:
        """How it stands with the workflow of each attempt."""
        names = [workflow_id(*attempt) for attempt in attempts]
        with translated_errors():
            found = self._client.list_workflows(
                workflow_ids=names, load_input=False, load_output=False
            )
        states = {workflow.workflow_id: workflow.status for workflow in found}
        return [_life(states.get(name)) for name in names]

    def forget(self, job_id: str, attempts: int) -> None:
        """Delete the workflows of a job's attempts so far, and the calls of its webhook."""
        calls = (
            WorkflowCall(job_id, attempt, 0, tries).workflow_id
            for attempt in range(attempts + 1)
            for tries in range(MOST_TRIES)
        )
        with translated_errors():
            names = [workflow_id(job_id, attempt) for attempt in range(attempts + 1)]
            self._client.delete_workflows([*names, *calls])

    def close(self) -> None:
        """Let go of the database."""
        self._client.destroy()


def _options(call: WorkflowCall) -> EnqueueOptions:
    return EnqueueOptions(
        workflow_name=WEBHOOKS,
        queue_name=WEBHOOKS,
        workflow_id=call.workflow_id,
        app_version=VERSION,
    )


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
