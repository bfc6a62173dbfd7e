"""Rows of jobs. A state only moves forward: queued, running, then one of the final states."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from palettery.app.database.engine import Clock, Database, chunks, utc_now
from palettery.app.database.job_lookup import find_job, job_from_row
from palettery.app.database.tables import JobRow
from palettery.app.errors import Conflict
from palettery.app.evaluations.repository import add_evaluation
from palettery.app.events import log_messages as lines
from palettery.app.events.job_changes import add_change
from palettery.app.events.log_messages import LogMessage
from palettery.app.events.repository import add_events
from palettery.app.execution.engine import WorkflowCall
from palettery.app.execution.fair_queue import OwnerTurns
from palettery.app.files.repository import FileLocation, add_job_files
from palettery.app.http.caller import LOCAL, UNLIMITED
from palettery.app.http.idempotency import KeyedRequest, KeyTaken
from palettery.app.jobs.job_queries import (
    QUEUED_BEFORE,
    RETRY,
    SCORING,
    TWIN,
    page_query,
    past_query,
)
from palettery.app.jobs.job_rows import NewJob, change, new_row
from palettery.app.jobs.row_callbacks import Enqueue, Notify, OnEnd
from palettery.app.keys.quota import check_room, within_limits
from palettery.schemas.evaluation import EvaluationSummary
from palettery.schemas.jobs import (
    ACTIVE_STATES,
    ENDED_STATES,
    LISTED_KINDS,
    Job,
    JobKind,
    JobState,
    Progress,
)
from palettery.schemas.keys import OwnerLimits
from palettery.schemas.problem import Problem


class JobRepository:
    """Reads and changes job rows, each in a transaction of its own.

    Every change of a job's state is recorded as an event; the end of a job calls its webhook.
    """

    def __init__(
        self,
        database: Database,
        now: Clock = utc_now,
        notify: Notify | None = None,
        on_end: OnEnd = lambda *_: None,
        turns: OwnerTurns | None = None,
    ) -> None:
        self._database, self._now, self._notify = database, now, notify
        self._on_end, self._turns = on_end, turns or OwnerTurns(database)

    def add(
        self, new: NewJob, files: Sequence[FileLocation] = (), enqueue: Enqueue | None = None
    ) -> Job:
        """Queue a new job, which needs these files; equal digests have equal paths.

        Raises:
            FileGone: a file is not at the path given: it was removed, or the same bytes are stored
                at another path by now. Call `FileRepository.find` again and plan with its result.
            KeyTaken: another job has the Idempotency-Key.
            OverQuota: its owner would have too many jobs or bytes.
        """
        row = new_row(new, self._now())
        with (
            self._database.transaction() as session,
            within_limits(session, new.owner, new.limits),
        ):
            row.turn = self._turns.take(session, new.owner, new.options.priority)
            session.add(row)
            try:
                session.flush()
            except IntegrityError as error:
                if new.request is None:
                    raise
                raise KeyTaken from error
            if new.evaluation is not None:
                add_evaluation(session, new.evaluation, row, row.created_at)
            add_job_files(session, new.id, files, row.created_at)
            if enqueue is not None:
                enqueue(session, new.id, row.attempt, row.turn)
            return self._queued(session, row, new.first_lines)

    def check_room(self, owner: str, limits: OwnerLimits) -> None:
        """Check that an owner may add a job.

        Raises:
            OverQuota: it may not.
        """
        with self._database.reading() as connection:
            check_room(connection, owner, limits)

    def keyed(self, owner: str, request: KeyedRequest) -> Job | None:
        """Return the job of the same request under the same key; None if there is none.

        Raises:
            IdempotencyConflict: the key was used with another request.
        """
        query = select(JobRow).where(JobRow.owner == owner, JobRow.idempotency_key == request.key)
        with self._database.transaction() as session:
            row = session.scalar(query)
            if row is None:
                return None
            request.check(row.idempotency_sha256)
            return job_from_row(row)

    def get(self, job_id: str, owner: str | None = None, kind: JobKind = "compression") -> Job:
        """Return a job; if an owner is given, one of this owner and kind.

        Raises:
            NotFound: there is no such job.
        """
        with self._database.reading() as connection:
            return find_job(connection, job_id, owner, kind)

    async def look_up(self, job_id: str, owner: str) -> Job:
        """Return a job as `get` does, quickly, for clients that poll."""
        return await self._database.read_in_thread(self.get, job_id, owner)

    def page(
        self,
        limit: int,
        before: str | None,
        owner: str = LOCAL,
        states: Collection[JobState] = (),
        model_id: str | None = None,
    ) -> Sequence[Job]:
        """Return jobs, newest first; see `page_query`."""
        query = page_query(owner, limit, before, states, model_id)
        with self._database.reading() as connection:
            return [job_from_row(row) for row in connection.execute(query)]

    def alive(self) -> Sequence[Job]:
        """Return the jobs that have not ended, oldest first."""
        query = select(JobRow).where(JobRow.state.in_(ACTIVE_STATES)).order_by(JobRow.id)
        with self._database.transaction() as session:
            return [job_from_row(row) for row in session.scalars(query)]

    def folder_states(self, ids: Collection[str]) -> dict[str, tuple[JobState, bool]]:
        """Return id -> (state, whether it has an artifact) for each of these jobs that exists."""
        states: dict[str, tuple[JobState, bool]] = {}
        has_artifact = JobRow.size_after_bytes.is_not(None)
        with self._database.transaction() as session:
            for chunk in chunks(ids):
                query = select(JobRow.id, JobRow.state, has_artifact)
                rows = session.execute(query.where(JobRow.id.in_(chunk)))
                states.update((row[0], (row[1], bool(row[2]))) for row in rows)
        return states

    def counts(self) -> dict[JobState, int]:
        """Return the number of jobs in each state that has any."""
        query = select(JobRow.state, func.count()).group_by(JobRow.state)
        with self._database.transaction() as session:
            return dict(session.execute(query).all())

    def overdue(self, now: datetime) -> Sequence[str]:
        """Return the ids of active jobs whose deadline has passed."""
        return self._ids(past_query(JobRow.deadline_at, ACTIVE_STATES, now))

    def expired(self, now: datetime) -> Sequence[str]:
        """Return the ids of ended jobs whose retention has expired."""
        return self._ids(past_query(JobRow.expires_at, ENDED_STATES, now))

    def twin(self, job_id: str) -> str | None:
        """Return the id of the owner's newest other job that succeeded with the same request."""
        with self._database.reading() as connection:
            twin: str | None = connection.scalar(TWIN, {"own": job_id})
            return twin

    def scoring(self, owner: str, digest: str) -> Job | None:
        """Return an owner's job that computes the scores of this digest now; None if none does."""
        with self._database.reading() as connection:
            row = connection.execute(SCORING, {"by": owner, "digest": digest}).one_or_none()
            return None if row is None else job_from_row(row)

    def start(self, job_id: str, attempt: int = 0, by: str = "") -> Job | None:
        """Change queued to running; return the job if this attempt runs, started or recovered."""
        running = {"state": "running", "started_at": self._now()}
        with self._database.transaction() as session:
            self._turns.start(session, job_id, attempt)
            started = change(session, job_id, ("queued",), attempt, **running)
            row = started or session.get(JobRow, job_id)
            if row is None or (row.state, row.attempt) != ("running", attempt):
                return None
            job = job_from_row(row)
            line = lines.started_by(by) if started else lines.resumed_by(by)
            add_events(session, job_id, self._now(), [job, line] if started else [line])
            return job

    def advance(
        self, job_id: str, progress: Progress, attempt: int | None = None, **columns: object
    ) -> bool:
        """Store the progress of a running job, and other columns.

        Returns whether it, or that attempt, still runs.
        """
        values = progress.model_dump() | columns
        with self._database.transaction() as session:
            return change(session, job_id, ("running",), attempt, **values) is not None

    def succeed(
        self,
        job_id: str,
        size_after_bytes: int | None,
        expires_at: datetime | None = None,
        progress: Progress | None = None,
        attempt: int | None = None,
        log: Sequence[LogMessage] = (),
        stored_bytes: int | None = None,
        evaluation: EvaluationSummary | None = None,
        missed: Problem | None = None,
    ) -> bool:
        """Change active to succeeded; return whether the job, or that attempt, was active.

        `size_after_bytes` is None without an artifact. `stored_bytes` is the size of all that the
        job stores; without it, that of the artifact.
        With `missed`, the quality that the artifact lacks, the job has failed and keeps it.
        """
        values = {
            "size_after_bytes": size_after_bytes,
            "stored_bytes": (size_after_bytes or 0) if stored_bytes is None else stored_bytes,
            "expires_at": expires_at,
            **(progress.model_dump() if progress else {}),
        }
        if evaluation is not None:
            values["evaluation"] = evaluation.model_dump(mode="json")
        if missed is None:
            return self._end(job_id, "succeeded", log, attempt, **values)
        values["error"] = missed.model_dump(mode="json")
        return self._end(job_id, "failed", [*log, lines.failure(missed)], attempt, **values)

    def fail(
        self,
        job_id: str,
        problem: Problem,
        expires_at: datetime | None = None,
        attempt: int | None = None,
    ) -> bool:
        """Change active to failed; return whether the job, or that attempt, was active."""
        error, log = problem.model_dump(mode="json"), [lines.failure(problem)]
        return self._end(job_id, "failed", log, attempt, error=error, expires_at=expires_at)

    def cancel(self, job_id: str, expires_at: datetime | None = None) -> bool:
        """Change active to cancelled; return whether the job was active."""
        return self._end(job_id, "cancelled", [lines.CANCELLED], expires_at=expires_at)

    def retry(
        self, job_id: str, enqueue: Enqueue | None = None, limits: OwnerLimits = UNLIMITED
    ) -> int:
        """Queue a failed or cancelled job again, without its deadline; return the new attempt.

        Raises:
            NotFound: there is no such job.
            Conflict: it is in another state.
            OverQuota: its owner would have too many active jobs.
        """
        job = self.get(job_id)
        with self._database.transaction() as session, within_limits(session, job.owner, limits):
            turn = self._turns.take(session, job.owner, job.priority)
            parameters = {"own": job_id, "new_turn": turn}
            row = session.connection().execute(RETRY, parameters).one_or_none()
            if row is not None:
                self._queued(session, row)
                if enqueue is not None:
                    enqueue(session, job_id, row.attempt, row.turn)
                return int(row.attempt)
        state = self.get(job_id).state
        raise Conflict(f"the job is {state}; only failed and cancelled jobs can be retried")

    def enqueue_again(self, job_id: str, enqueue: Enqueue) -> None:
        """Enqueue the current attempt of a job that has not ended."""
        query = select(JobRow).where(JobRow.id == job_id, JobRow.state.in_(ACTIVE_STATES))
        with self._database.transaction() as session:
            row = session.scalar(query)
            if row is not None:
                enqueue(session, job_id, row.attempt, row.turn)

    def delete(self, job_id: str) -> None:
        """Delete the row of an ended job, with its results and its references to files.

        Raises:
            NotFound: there is no such job.
            Conflict: it has not ended.
        """
        job = self.get(job_id)
        statement = delete(JobRow).where(JobRow.id == job_id, JobRow.state.in_(ENDED_STATES))
        with self._database.transaction() as session:
            is_deleted = session.connection().execute(statement).rowcount == 1
            if is_deleted and job.kind in LISTED_KINDS:
                add_change(session, job.owner, job_id)
        if not is_deleted:
            state = self.get(job_id).state
            raise Conflict(f"the job is {state}; cancel it, then it can be deleted")

    def _ids(self, query: Select[str]) -> Sequence[str]:
        with self._database.transaction() as session:
            return session.scalars(query).all()

    def _queued(
        self, session: Session, row: JobRow | Row[Any], log: Sequence[LogMessage] = ()
    ) -> Job:
        """Record that a job was queued, and how many run before it."""
        parameters = {"last": row.turn, "own": row.id}
        before = session.connection().scalar(QUEUED_BEFORE, parameters) or 0
        job = job_from_row(row)
        add_events(session, row.id, self._now(), [job, *log, lines.queue_position(before)])
        return job

    def _end(
        self,
        job_id: str,
        state: JobState,
        log: Sequence[LogMessage],
        attempt: int | None = None,
        **values: object,
    ) -> bool:
        with self._database.transaction() as session:
            now = self._now()
            values |= {"state": state, "ended_at": now}
            row = change(session, job_id, ACTIVE_STATES, attempt, **values)
            if row is None:
                return False
            newest = add_events(session, job_id, now, [*log, job_from_row(row)])
            if self._notify and row.webhook_url is not None and newest is not None:
                self._notify(session, WorkflowCall(job_id, row.attempt, newest))
        self._on_end(state, row.started_at)
        return True
