"""Rows of jobs. State only moves forward: queued, running, then one of the ends."""

import json
import re
from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from sqlalchemy import Update, delete, func, null, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.database import Clock, Database, chunks, utc_now
from app.errors import Conflict, NotFound
from app.events import lines
from app.events.lines import Line
from app.events.records import record
from app.keys.caller import LOCAL
from app.rows import JobRow
from app.uploads.records import KeptFile, keep
from schemas.jobs import ENDED, Job, JobState, Progress
from schemas.problem import Problem

ID = re.compile(r"[0-9a-f-]{36}")
"""Anything else is no job's id, and some databases choke on it."""
ALIVE: tuple[JobState, ...] = ("queued", "running")
RETRIED: tuple[JobState, ...] = ("failed", "cancelled")
Enqueue = Callable[[Session, str, int, int], None]
"""Has the engine start an attempt, within a transaction: (session, job id, attempt, priority)."""
Notify = Callable[[Session, str, int], None]
"""Has the engine call a webhook, within a transaction: (session, job id, number of the event)."""


class Records:
    """Reads and writes of job rows, each in its own transaction.

    Every change of a job's state is recorded as an event, and its end told to its webhook.
    """

    def __init__(
        self, database: Database, now: Clock = utc_now, notify: Notify | None = None
    ) -> None:
        self._database, self._now, self._notify = database, now, notify

    def add(
        self,
        job_id: str,
        model_name: str,
        size_before_bytes: int,
        progress: Progress,
        *,
        owner: str = LOCAL,
        priority: int = 5,
        deadline_at: datetime | None = None,
        request_sha256: str | None = None,
        reuse: bool = True,
        files: Sequence[KeptFile] = (),
        enqueue: Enqueue | None = None,
        told: Sequence[Line] = (),
    ) -> Job:
        """A new job, queued, and that it needs these files; equal digests have equal paths.

        Raises:
            FileGone: a file does not lie where the caller says: it was removed, or the same bytes
                are kept at another path by now. Ask `FileRecords.find` again and plan with that.
        """
        row = JobRow(
            id=job_id,
            owner=owner,
            state="queued",
            model_name=model_name,
            created_at=self._now(),
            size_before_bytes=size_before_bytes,
            priority=priority,
            deadline_at=deadline_at,
            attempt=0,
            request_sha256=request_sha256,
            reuse=reuse,
            **progress.model_dump(),
        )
        with self._database.transaction() as session:
            session.add(row)
            session.flush()  # the first write: SQLite's transaction begins here
            keep(session, job_id, files, row.created_at)
            if enqueue is not None:
                enqueue(session, job_id, row.attempt, priority)
            return self._queued(session, row, told)

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """One job, of an owner if one is named.

        Raises:
            NotFound: there is no such job.
        """
        with self._database.transaction() as session:
            row = session.get(JobRow, job_id) if ID.fullmatch(job_id) else None
            if row is None or owner not in (None, row.owner):
                raise NotFound(f"there is no job {job_id[:64]!r}; GET /v1/jobs lists them")
            return _job(row)

    def page(self, limit: int, before: str | None, owner: str = LOCAL) -> Sequence[Job]:
        """An owner's jobs, newest first, older than the one with this id; ids go by time."""
        query = select(JobRow).where(JobRow.owner == owner).order_by(JobRow.id.desc()).limit(limit)
        if before is not None:
            query = query.where(JobRow.id < before)
        with self._database.transaction() as session:
            return [_job(row) for row in session.scalars(query)]

    def alive(self) -> Sequence[Job]:
        """Jobs that have not ended, oldest first."""
        query = select(JobRow).where(JobRow.state.in_(ALIVE)).order_by(JobRow.id)
        with self._database.transaction() as session:
            return [_job(row) for row in session.scalars(query)]

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
        return self._past(JobRow.deadline_at, ALIVE, now)

    def expired(self, now: datetime) -> Sequence[str]:
        """Ids of jobs that have ended, and are kept no longer."""
        return self._past(JobRow.expires_at, tuple(ENDED), now)

    def twin(self, job_id: str) -> str | None:
        """Id of the newest other job that succeeded with the same request."""
        own = select(JobRow.request_sha256).where(JobRow.id == job_id).scalar_subquery()
        query = (
            select(JobRow.id)
            .where(JobRow.request_sha256 == own, JobRow.state == "succeeded", JobRow.id != job_id)
            .order_by(JobRow.id.desc())
            .limit(1)
        )
        with self._database.transaction() as session:
            return session.scalar(query)

    def start(self, job_id: str, attempt: int = 0, by: str = "") -> Job | None:
        """Queued to running; the job if that attempt may go on (a recovered one runs already)."""
        change = (
            update(JobRow)
            .where(JobRow.id == job_id, JobRow.state == "queued", JobRow.attempt == attempt)
            .values(state="running", started_at=self._now())
        )
        with self._database.transaction() as session:
            started = _changed(session, change)
            row = started or session.get(JobRow, job_id)
            if row is None or (row.state, row.attempt) != ("running", attempt):
                return None
            job = _job(row)
            happened: list[Job | Line] = [job, lines.taken_up(by)]
            record(
                session, job_id, self._now(), happened if started else [lines.taken_up_again(by)]
            )
            return job

    def advance(self, job_id: str, progress: Progress, attempt: int | None = None) -> bool:
        """Note the work done by a running job; whether it, or that attempt, is running still."""
        change = _of(job_id, ("running",), attempt).values(progress.model_dump())
        with self._database.transaction() as session:
            return session.connection().execute(change).rowcount == 1

    def succeed(
        self,
        job_id: str,
        size_after_bytes: int,
        expires_at: datetime | None = None,
        progress: Progress | None = None,
        attempt: int | None = None,
        told: Sequence[Line] = (),
    ) -> bool:
        """Running to succeeded; whether that was so, of that attempt if one is named."""
        done = progress.model_dump() if progress else {}
        values = {"size_after_bytes": size_after_bytes, "expires_at": expires_at, **done}
        return self._end(job_id, "succeeded", told, attempt, **values)

    def fail(
        self,
        job_id: str,
        problem: Problem,
        expires_at: datetime | None = None,
        attempt: int | None = None,
    ) -> bool:
        """Queued or running to failed; whether that was so, of that attempt if one is named."""
        error, told = json.loads(problem.model_dump_json()), [lines.failed(problem)]
        return self._end(job_id, "failed", told, attempt, error=error, expires_at=expires_at)

    def cancel(self, job_id: str, expires_at: datetime | None = None) -> bool:
        """Queued or running to cancelled; whether that was so."""
        return self._end(job_id, "cancelled", [lines.CANCELLED], expires_at=expires_at)

    def retry(self, job_id: str, enqueue: Enqueue | None = None) -> int:
        """Failed or cancelled back to queued, without its deadline; the number of the new attempt.

        Raises:
            NotFound: there is no such job.
            Conflict: it is in another state.
        """
        self.get(job_id)
        afresh = Progress().model_dump(exclude={"tensors_total", "bytes_total"})
        change = (
            update(JobRow)
            .where(JobRow.id == job_id, JobRow.state.in_(RETRIED))
            .values(
                state="queued",
                attempt=JobRow.attempt + 1,
                started_at=None,
                ended_at=None,
                deadline_at=None,
                expires_at=None,
                error=null(),
                **afresh,
            )
        )
        with self._database.transaction() as session:
            row = _changed(session, change)
            if row is not None:
                self._queued(session, row)
                if enqueue is not None:
                    enqueue(session, job_id, row.attempt, row.priority)
                return row.attempt
        state = self.get(job_id).state
        raise Conflict(f"the job is {state}; only failed and cancelled jobs can be retried")

    def enqueue_again(self, job_id: str, enqueue: Enqueue) -> None:
        """Have the engine start the attempt at a job that has not ended."""
        query = select(JobRow).where(JobRow.id == job_id, JobRow.state.in_(ALIVE))
        with self._database.transaction() as session:
            row = session.scalar(query)
            if row is not None:
                enqueue(session, job_id, row.attempt, row.priority)

    def delete(self, job_id: str) -> None:
        """Remove an ended job's row, with its results and its need of files.

        Raises:
            NotFound: there is no such job.
            Conflict: it has not ended.
        """
        self.get(job_id)
        change = delete(JobRow).where(JobRow.id == job_id, JobRow.state.in_(ENDED))
        with self._database.transaction() as session:
            is_gone = session.connection().execute(change).rowcount == 1
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

    def _queued(self, session: Session, row: JobRow, told: Sequence[Line] = ()) -> Job:
        """A job that has come to be queued; its log tells how many are served before it."""
        before = select(func.count()).where(
            JobRow.state == "queued", JobRow.priority >= row.priority, JobRow.id != row.id
        )
        behind, job = session.scalars(before).one(), _job(row)
        record(session, row.id, self._now(), [job, *told, lines.queued(behind)])
        return job

    def _end(
        self,
        job_id: str,
        state: JobState,
        told: Sequence[Line],
        attempt: int | None = None,
        **values: object,
    ) -> bool:
        change = _of(job_id, ALIVE, attempt).values(state=state, ended_at=self._now(), **values)
        with self._database.transaction() as session:
            row = _changed(session, change)
            if row is None:
                return False
            newest = record(session, job_id, self._now(), [*told, _job(row)])
            if self._notify and row.webhook_url is not None and newest is not None:
                self._notify(session, job_id, newest)
            return True


def _of(job_id: str, states: Sequence[JobState], attempt: int | None) -> Update:
    """Changes a row, provided it is in one of the states, and at that attempt, still."""
    change = update(JobRow).where(JobRow.id == job_id, JobRow.state.in_(states))
    return change if attempt is None else change.where(JobRow.attempt == attempt)


def _changed(session: Session, change: Update) -> JobRow | None:
    """The row after a change of at most one; None if there was none to change."""
    whole = {"synchronize_session": False, "populate_existing": True}
    return session.scalars(change.returning(JobRow), execution_options=whole).one_or_none()


def _job(row: JobRow) -> Job:
    here = f"/v1/jobs/{row.id}"
    links = {"self": here}
    if row.state in ALIVE:
        links["cancel"] = f"{here}/cancel"
    if row.state in RETRIED:
        links["retry"] = f"{here}/retry"
    if row.state == "succeeded":
        links |= {"artifact": f"{here}/artifact", "report": f"{here}/report"}
    return Job(
        id=row.id,
        state=row.state,
        model_name=row.model_name,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        priority=row.priority,
        deadline_at=row.deadline_at,
        attempt=row.attempt,
        reuse=row.reuse,
        expires_at=row.expires_at,
        progress=Progress(
            tensors_done=row.tensors_done,
            tensors_total=row.tensors_total,
            bytes_done=row.bytes_done,
            bytes_total=row.bytes_total,
            tensors_reused=row.tensors_reused,
        ),
        size_before_bytes=row.size_before_bytes,
        size_after_bytes=row.size_after_bytes,
        error=row.error and Problem.model_validate(row.error),
        links=links,
    )
