"""The durable workflow engine, DBOS: its configuration, and the operations on its workflows.

Its tables are in the service's database, so that a job's row and its workflow are added in one
transaction.
Source: docs.dbos.dev, and the measurements in the engine reference.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, EnqueueOptions
from sqlalchemy import column, table, update
from sqlalchemy.orm import Session

from palettery.app.database.engine import Database, chunks, translate_database_errors
from palettery.app.settings import Settings

APPLICATION = "palettery"
QUEUE = "jobs"
WORKFLOW = "job"
VERSION = "2"
"""Version of the workflow's steps; only workflows of the same version are resumed."""
FIRST_PRIORITY, LAST_PRIORITY = 1, (1 << 31) - 1
"""Range of the engine's priorities; low ones are served first."""

EVALUATIONS = "evaluations"
"""Queue of evaluations that are no part of a job, and name of their workflow."""
WEBHOOKS = "webhooks"
"""Queue of webhook calls, and name of their workflow."""
MAX_ATTEMPTS = 20
"""Upper bound of the tries of one webhook, for `delete_workflows`."""

WorkflowState = Literal["none", "alive", "ended"]
"""State of the workflow of an attempt."""


class WorkflowCall(NamedTuple):
    """One try to call a webhook."""

    job_id: str
    attempt: int
    """The attempt at the job that has ended."""
    number: int
    """Number of the event of its end."""
    tries: int = 0
    """Tries that have failed before."""

    @property
    def workflow_id(self) -> str:
        """Id of the call's workflow."""
        return f"{workflow_id(self.job_id, self.attempt)}-webhook-{self.tries}"


class Engine:
    """Operations on workflows from any process; each attempt at a job has its own workflow."""

    def __init__(self, database: Database) -> None:
        self._client = DBOSClient(
            system_database_engine=database.engine,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            lazy=True,
            retry_connection_errors=False,
        )

    def enqueue(self, session: Session, job_id: str, attempt: int, turn: int) -> None:
        """Queue an attempt at a job, within the session's transaction."""
        options = EnqueueOptions(
            workflow_name=WORKFLOW,
            queue_name=QUEUE,
            workflow_id=workflow_id(job_id, attempt),
            app_version=VERSION,
            priority=min(FIRST_PRIORITY + turn, LAST_PRIORITY),
        )
        self._client.enqueue_in_transaction(session, options, job_id, attempt)

    def enqueue_evaluation(self, session: Session, job_id: str, evaluation_id: str) -> None:
        """Queue an evaluation, within the session's transaction."""
        options = EnqueueOptions(
            workflow_name=EVALUATIONS,
            queue_name=EVALUATIONS,
            workflow_id=f"{evaluations_of(job_id)}{evaluation_id}",
            app_version=VERSION,
        )
        self._client.enqueue_in_transaction(session, options, evaluation_id)

    def move(self, session: Session, attempts: Sequence[tuple[str, int]], by: int) -> None:
        """Move queued attempts by `by` turns, within the session's transaction.

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
        """Queue a call of a webhook, within the session's transaction."""
        self._client.enqueue_in_transaction(session, _options(call), *call)

    def call_webhook_later(self, call: WorkflowCall, wait_s: float) -> None:
        """Queue a call of a webhook after a delay; repeating this queues it only once."""
        options = _options(call)
        options["delay_seconds"] = wait_s
        with translate_database_errors():
            self._client.enqueue(options, *call)

    async def cancel(self, job_id: str, attempt: int) -> None:
        """Cancel an attempt's workflow, queued or running, in whichever process."""
        with translate_database_errors():
            await self._client.cancel_workflow_async(workflow_id(job_id, attempt))

    def workflow_states(self, attempts: Sequence[tuple[str, int]]) -> list[WorkflowState]:
        """Return the state of each attempt's workflow."""
        names = [workflow_id(*attempt) for attempt in attempts]
        with translate_database_errors():
            workflows = self._client.list_workflows(
                workflow_ids=names, load_input=False, load_output=False
            )
        states = {workflow.workflow_id: workflow.status for workflow in workflows}
        return [_state(states.get(name)) for name in names]

    def delete_workflows(self, job_id: str, attempts: int) -> None:
        """Delete the workflows of all attempts at a job, its webhook calls and its evaluations."""
        calls = (
            WorkflowCall(job_id, attempt, 0, tries).workflow_id
            for attempt in range(attempts + 1)
            for tries in range(MAX_ATTEMPTS)
        )
        with translate_database_errors():
            names = [workflow_id(job_id, attempt) for attempt in range(attempts + 1)]
            evaluations = self._client.list_workflows(
                workflow_id_prefix=evaluations_of(job_id), load_input=False, load_output=False
            )
            names += [each.workflow_id for each in evaluations]
            self._client.delete_workflows([*names, *calls])

    def close(self) -> None:
        """Close the connection to the database."""
        self._client.destroy()


def _options(call: WorkflowCall) -> EnqueueOptions:
    return EnqueueOptions(
        workflow_name=WEBHOOKS,
        queue_name=WEBHOOKS,
        workflow_id=call.workflow_id,
        app_version=VERSION,
    )


def workflow_id(job_id: str, attempt: int) -> str:
    """Return the id of the workflow of an attempt at a job."""
    return f"{job_id}-{attempt}"


def evaluations_of(job_id: str) -> str:
    """Return the beginning of the ids of the workflows of a job's evaluations."""
    return f"{job_id}-evaluation-"


def migrate_engine(database: Database) -> None:
    """Migrate the engine's own tables."""
    url = database.engine.url.render_as_string(hide_password=False)
    DBOS.migrate(url)


def configure(settings: Settings, database: Database) -> DBOSConfig:
    """Return the engine's configuration in a process that runs jobs."""
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


def _state(status: str | None) -> WorkflowState:
    if status is None:
        return "none"
    return "alive" if status in ("PENDING", "ENQUEUED", "DELAYED") else "ended"
