"""Rows of jobs. State only moves forward: queued, running, then one of the ends."""

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, null, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from palettery.app.database.engine import Clock, Database, chunks, utc_now
from palettery.app.database.job_rows import job_from_row
from palettery.app.database.tables import JobRow
from palettery.app.errors import Conflict, NotFound
from palettery.app.events import log_messages as lines
from palettery.app.events.job_changes import add_change
from palettery.app.events.log_messages import LogMessage
from palettery.app.events.repository import add_events
from palettery.app.execution.engine import WorkflowCall
from palettery.app.execution.turns import OwnerTurns
from palettery.app.files.repository import FileLocation, add_job_files
from palettery.app.http.caller import LOCAL, UNLIMITED
from palettery.app.http.idempotency import KeyedRequest, KeyTaken
from palettery.app.jobs.callbacks import Enqueue, Notify, OnEnd
from palettery.app.jobs.job_rows import ID, NewJob, change, new_row
from palettery.app.jobs.listing import newest
from palettery.app.keys.quota import check_room, within_limits
from palettery.schemas.jobs import ACTIVE_STATES, ENDED, RETRYABLE_STATES, Job, JobState, Progress
from palettery.schemas.keys import OwnerLimits
from palettery.schemas.problem import Problem

# Statements that are made once: to put one together takes longer than to run it.
_OWN = select(JobRow.__table__).where(JobRow.id == bindparam("own"))
_SAME = aliased(JobRow)
_TWIN = (
    select(JobRow.id)
    .join(_SAME, JobRow.request_sha256 == _SAME.request_sha256)
    .where(_SAME.id == bindparam("own"), JobRow.owner == _SAME.owner)
    .where(JobRow.state == "succeeded", JobRow.id != bindparam("own"))
    .order_by(JobRow.id.desc())
    .limit(1)
)
_BEFORE = select(func.count()).where(
    JobRow.state == "queued", JobRow.turn <= bindparam("last"), JobRow.id != bindparam("own")
)
_AFRESH = Progress().model_dump(exclude={"tensors_total", "bytes_total"})
_RETRY = (
    update(JobRow)
    .where(JobRow.id == bindparam("own"), JobRow.state.in_(RETRYABLE_STATES))
    .values(state="queued", attempt=JobRow.attempt + 1, error=null(), **_AFRESH)
    .values(turn=bindparam("new_turn"))
    .values(started_at=None, ended_at=None, deadline_at=None, expires_at=None)
    .returning(JobRow.__table__)
)


class JobRepository:
    """Reads and writes of job rows, each in its own transaction.

    Every change of a job's state is recorded as an event, and its end told to its webhook.
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
            FileGone: a file does not lie where the caller says: it was removed, or the same bytes
                are kept at another path by now. Ask `FileRecords.find` again and plan with that.
            KeyTaken: another job has its Idempotency-Key.
            OverQuota: its owner may not have as many, or as many bytes.
        """
        row = new_row(new, self._now())
        with (
            self._database.transaction() as session,
            within_limits(session, new.owner, new.limits),
        ):
            row.turn = self._turns.take(session, new.owner, new.priority)
            session.add(row)
            try:
                session.flush()
            except IntegrityError as error:
                if new.keyed is None:
                    raise
                raise KeyTaken from error
            add_job_files(session, new.id, files, row.created_at)
            if enqueue is not None:
                enqueue(session, new.id, row.attempt, row.turn)
            return self._queued(session, row, new.told)

    def check_room(self, owner: str, limits: OwnerLimits) -> None:
        """See that an owner may add any job.

        Raises:
            OverQuota: it may not.
        """
        with self._database.reading() as connection:
            check_room(connection, owner, limits)

    def keyed(self, owner: str, asked: KeyedRequest) -> Job | None:
        """The job that was queued for this very request before; None if there is none.

        Raises:
            IdempotencyConflict: the key stands for another request.
        """
        query = select(JobRow).where(JobRow.owner == owner, JobRow.idempotency_key == asked.key)
        with self._database.transaction() as session:
            row = session.scalar(query)
            if row is None:
                return None
            asked.check(row.idempotency_sha256)
            return job_from_row(row)

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """One job, of an owner if one is named.

        Raises:
            NotFound: there is no such job.
        """
        with self._database.reading() as connection:
            asked = {"own": job_id}
            row = connection.execute(_OWN, asked).one_or_none() if ID.fullmatch(job_id) else None
        if row is None or owner not in (None, row.owner):
            raise NotFound(f"there is no job {job_id[:64]!r}; see the list of your jobs")
        return job_from_row(row)

    async def look_up(self, job_id: str, owner: str) -> Job:
        """As `get`, for those who ask over and over."""
        return await self._database.quickly(self.get, job_id, owner)

    def page(
        self,
        limit: int,
        before: str | None,
        owner: str = LOCAL,
        states: Collection[JobState] = (),
        model_id: str | None = None,
    ) -> Sequence[Job]:
        """See `newest`."""
        query = newest(owner, limit, before, states, model_id)
        with self._database.reading() as connection:
            return [job_from_row(row) for row in connection.execute(query)]

    def alive(self) -> Sequence[Job]:
        """Jobs that have not ended, oldest first."""
        query = select(JobRow).where(JobRow.state.in_(ACTIVE_STATES)).order_by(JobRow.id)
        with self._database.transaction() as session:
            return [job_from_row(row) for row in session.scalars(query)]

    def states(self, ids: Collection[str]) -> dict[str, JobState]:
        """The state of each of these jobs that there is."""
        found: dict[str, JobState] = {}
        with self._database.transaction() as session:
            for chunk in chunks(ids):
                query = select(JobRow.id, JobRow.state).where(JobRow.id.in_(chunk))
                found.update((row.id, row.state) for row in session.execute(query))
        return found

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are in each state that has any."""
        query = select(JobRow.state, func.count()).group_by(JobRow.state)
        with self._database.transaction() as session:
            return dict(session.execute(query).all())

    def overdue(self, now: datetime) -> Sequence[str]:
        """Ids of jobs that have not ended, and should have."""
        return self._past(JobRow.deadline_at, ACTIVE_STATES, now)

    def expired(self, now: datetime) -> Sequence[str]:
        """Ids of jobs that have ended, and are kept no longer."""
        return self._past(JobRow.expires_at, tuple(ENDED), now)

    def twin(self, job_id: str) -> str | None:
        """Id of the newest other job of its owner's that succeeded with the same request."""
        with self._database.reading() as connection:
            found: str | None = connection.scalar(_TWIN, {"own": job_id})
            return found

    def start(self, job_id: str, attempt: int = 0, by: str = "") -> Job | None:
        """Queued to running; the job if that attempt may go on (a recovered one runs already)."""
        running = {"state": "running", "started_at": self._now()}
        with self._database.transaction() as session:
            self._turns.start(session, job_id, attempt)
            started = change(session, job_id, ("queued",), attempt, **running)
            row = started or session.get(JobRow, job_id)
            if row is None or (row.state, row.attempt) != ("running", attempt):
                return None
            job, again = job_from_row(row), [lines.resumed_by(by)]
            add_events(
                session, job_id, self._now(), [job, lines.started_by(by)] if started else again
            )
            return job

    def advance(self, job_id: str, progress: Progress, attempt: int | None = None) -> bool:
        """Note the work done by a running job; whether it, or that attempt, is running still."""
        done = progress.model_dump()
        with self._database.transaction() as session:
            return change(session, job_id, ("running",), attempt, **done) is not None

    def succeed(
        self,
        job_id: str,
        size_after_bytes: int,
        expires_at: datetime | None = None,
        progress: Progress | None = None,
        attempt: int | None = None,
        told: Sequence[LogMessage] = (),
        stored_bytes: int | None = None,
    ) -> bool:
        """Running to succeeded; whether that was so, of that attempt if one is named.

        All that it stores may be more than its artifact.
        """
        done = progress.model_dump() if progress else {}
        values = {
            "size_after_bytes": size_after_bytes,
            "stored_bytes": size_after_bytes if stored_bytes is None else stored_bytes,
            "expires_at": expires_at,
            **done,
        }
        return self._end(job_id, "succeeded", told, attempt, **values)

    def fail(
        self,
        job_id: str,
        problem: Problem,
        expires_at: datetime | None = None,
        attempt: int | None = None,
    ) -> bool:
        """Queued or running to failed; whether that was so, of that attempt if one is named."""
        error, told = json.loads(problem.model_dump_json()), [lines.failure(problem)]
        return self._end(job_id, "failed", told, attempt, error=error, expires_at=expires_at)

    def cancel(self, job_id: str, expires_at: datetime | None = None) -> bool:
        """Queued or running to cancelled; whether that was so."""
        return self._end(job_id, "cancelled", [lines.CANCELLED], expires_at=expires_at)

    def retry(
        self, job_id: str, enqueue: Enqueue | None = None, limits: OwnerLimits = UNLIMITED
    ) -> int:
        """Failed or cancelled back to queued, without its deadline; the number of the new attempt.

        Raises:
            NotFound: there is no such job.
            Conflict: it is in another state.
            OverQuota: its owner may not have as many.
        """
        job = self.get(job_id)
        with self._database.transaction() as session, within_limits(session, job.owner, limits):
            turn = self._turns.take(session, job.owner, job.priority)
            row = (
                session.connection()
                .execute(_RETRY, {"own": job_id, "new_turn": turn})
                .one_or_none()
            )
            if row is not None:
                self._queued(session, row)
                if enqueue is not None:
                    enqueue(session, job_id, row.attempt, row.turn)
                return int(row.attempt)
        state = self.get(job_id).state
        raise Conflict(f"the job is {state}; only failed and cancelled jobs can be retried")

    def enqueue_again(self, job_id: str, enqueue: Enqueue) -> None:
        """Have the engine start the attempt at a job that has not ended."""
        query = select(JobRow).where(JobRow.id == job_id, JobRow.state.in_(ACTIVE_STATES))
        with self._database.transaction() as session:
            row = session.scalar(query)
            if row is not None:
                enqueue(session, job_id, row.attempt, row.turn)

    def delete(self, job_id: str) -> None:
        """Remove an ended job's row, with its results and its need of files.

        Raises:
            NotFound: there is no such job.
            Conflict: it has not ended.
        """
        owner = self.get(job_id).owner
        change = delete(JobRow).where(JobRow.id == job_id, JobRow.state.in_(ENDED))
        with self._database.transaction() as session:
            is_gone = session.connection().execute(change).rowcount == 1
            if is_gone:
                add_change(session, owner, job_id)
        if not is_gone:
            state = self.get(job_id).state
            raise Conflict(f"the job is {state}; cancel it, then it can be deleted")

    def _past(
        self,
        moment: InstrumentedAttribute[datetime | None],
        states: Sequence[JobState],
        now: datetime,
    ) -> Sequence[str]:
        query = select(JobRow.id).where(moment < now, JobRow.state.in_(states)).order_by(JobRow.id)
        with self._database.transaction() as session:
            return session.scalars(query).all()

    def _queued(
        self, session: Session, row: JobRow | Row[Any], told: Sequence[LogMessage] = ()
    ) -> Job:
        """A job that has come to be queued; its log tells how many are served before it."""
        asked = {"last": row.turn, "own": row.id}
        behind = session.connection().scalar(_BEFORE, asked) or 0
        job = job_from_row(row)
        add_events(session, row.id, self._now(), [job, *told, lines.queue_position(behind)])
        return job

    def _end(
        self,
        job_id: str,
        state: JobState,
        told: Sequence[LogMessage],
        attempt: int | None = None,
        **values: object,
    ) -> bool:
        with self._database.transaction() as session:
            now = self._now()
            ended = {"state": state, "ended_at": now, **values}
            row = change(session, job_id, ACTIVE_STATES, attempt, **ended)
            if row is None:
                return False
            newest = add_events(session, job_id, now, [*told, job_from_row(row)])
            if self._notify and row.webhook_url is not None and newest is not None:
                self._notify(session, WorkflowCall(job_id, row.attempt, newest))
        self._on_end(state, row.started_at)
        return True
