"""Rows of the events of jobs: changes of state, and log messages.

A job's row holds the number of its newest event, and every transaction that adds events updates
it. So numbers have no gaps, and a reader that sees an event can see all before it.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import and_, bindparam, func, insert, or_, select, update
from sqlalchemy.orm import Session

from palettery.app.database.engine import Clock, Database, chunks, utc_now
from palettery.app.database.job_lookup import find_job
from palettery.app.database.tables import JobEventRow, JobRow
from palettery.app.events.job_changes import add_change
from palettery.app.events.log_messages import LogMessage
from palettery.schemas.events import LogLine, LogPage
from palettery.schemas.jobs import ENDED_STATES, LISTED_KINDS, Job, JobKind, Progress

STATE, LOG = "state", "log"
MAX_LINES = 1_000
"""Maximum number of log messages of one job; the last one says that later ones are lost."""
MAX_CHARACTERS = 2_000
"""Maximum length of a log message."""
JOBS_PER_QUERY = 100
"""Maximum number of jobs in one query for new events; SQLite limits nested conditions to 1,000."""
MAX_NEW_EVENTS = 1_000
"""Maximum number of events that one such query returns."""
_OF_JOB = JobEventRow.job_id == bindparam("job_id_")
_RESERVE_NUMBERS = (
    update(JobRow)
    .where(JobRow.id == bindparam("job_id_"))
    .values(last_event=JobRow.last_event + bindparam("more"))
    .returning(JobRow.last_event)
)
_ADD = insert(JobEventRow)
_COUNT_MESSAGES = select(func.count()).where(_OF_JOB, JobEventRow.kind == LOG)
_LAST_STATE_NUMBER = select(func.max(JobEventRow.number)).where(_OF_JOB, JobEventRow.kind == STATE)
_MESSAGES_SINCE_STATE = select(JobEventRow.data).where(
    _OF_JOB, JobEventRow.number > func.coalesce(_LAST_STATE_NUMBER.scalar_subquery(), 0)
)
"""Statements are built once: building one takes longer than running it on SQLite."""
LOG_FULL = LogMessage(
    f"a log keeps {MAX_LINES:,} lines; what comes after this one is lost", "warning"
)


class StoredEvent(NamedTuple):
    """A stored event, ready to send."""

    number: int
    kind: str
    data: str
    """JSON: a `Job`, or a `LogLine`."""


@dataclass(frozen=True)
class JobSnapshot:
    """State of a job at one moment."""

    newest: int
    """Number of its newest event."""
    has_ended: bool
    progress: Progress


class JobUpdate(NamedTuple):
    """A job's present state and its new events."""

    snapshot: JobSnapshot
    events: Sequence[StoredEvent]


def add_events(
    session: Session, job_id: str, at: datetime, items: Sequence[Job | LogMessage]
) -> int | None:
    """Add events to a job and return the newest number; None if there is no such job.

    A `Job` is stored as a change of state. Without one, messages equal to a message since the last
    change of state are left out, so that repeated retries do not fill the log.
    """
    connection, count = session.connection(), len(items)
    # The update locks the job's row: no other transaction adds events until this one ends.
    reserved = {"job_id_": job_id, "more": count}
    newest = connection.execute(_RESERVE_NUMBERS, reserved).scalar_one_or_none()
    if newest is None:
        return None
    first = newest - count + 1
    events = list(_rows(session, job_id, items, first))
    if events:
        rows = [
            {"job_id": job_id, "number": number, "kind": kind, "data": data, "created_at": at}
            for number, (kind, data) in enumerate(events, first)
        ]
        connection.execute(_ADD, rows)
    if len(events) < count:
        newest = first - 1 + len(events)
        connection.execute(_RESERVE_NUMBERS, {"job_id_": job_id, "more": len(events) - count})
    for item in items:
        if isinstance(item, Job) and item.kind in LISTED_KINDS:
            add_change(session, item.owner, job_id)
    return newest


class EventRepository:
    """Reads of events and writes of log messages, each in its own transaction."""

    def __init__(self, database: Database, now: Clock = utc_now) -> None:
        self._database, self._now = database, now

    def check_owner(self, owner: str, job_id: str, kind: JobKind = "compression") -> None:
        """Check that an owner has a job of this kind.

        Raises:
            NotFound: there is no such job.
        """
        with self._database.reading() as connection:
            find_job(connection, job_id, owner, kind)

    def log(self, job_id: str, *messages: LogMessage) -> None:
        """Add messages to a job's log, unless the job was deleted."""
        with self._database.transaction() as session:
            add_events(session, job_id, self._now(), messages)

    def after(self, job_id: str, number: int, limit: int) -> Sequence[StoredEvent]:
        """Return the first events of a job after that number."""
        return self._page(job_id, number, limit, (STATE, LOG))

    def lines(self, job_id: str, number: int, limit: int) -> LogPage:
        """Return the first lines of a job's log after the event of that number."""
        events = self._page(job_id, number, limit, (LOG,))
        return LogPage(
            items=tuple(LogLine.model_validate_json(event.data) for event in events),
            next_after=events[-1].number if events else number,
        )

    def state(self, job_id: str, number: int) -> tuple[datetime, Job] | None:
        """Return the time and the job of a change of state; None if there is no such event."""
        with self._database.transaction() as session:
            row = session.get(JobEventRow, (job_id, number))
            if row is None:
                return None
            return row.created_at, Job.model_validate_json(row.data)

    def snapshots(self, ids: Collection[str]) -> dict[str, JobSnapshot]:
        """Return the present state of each of these jobs that exists."""
        columns = [getattr(JobRow, name) for name in Progress.model_fields]
        snapshots = {}
        with self._database.transaction() as session:
            for chunk in chunks(ids):
                query = select(JobRow.id, JobRow.last_event, JobRow.state, *columns)
                for row in session.execute(query.where(JobRow.id.in_(chunk))):
                    progress = Progress(
                        **{name: getattr(row, name) for name in Progress.model_fields}
                    )
                    snapshots[row.id] = JobSnapshot(
                        row.last_event, row.state in ENDED_STATES, progress
                    )
        return snapshots

    def updates(self, seen: Mapping[str, int]) -> dict[str, JobUpdate]:
        """Return the current state of these jobs, and their first events after the seen number."""
        snapshots = self.snapshots(seen)
        behind = [
            and_(JobEventRow.job_id == job_id, JobEventRow.number > seen[job_id])
            for job_id, snapshot in snapshots.items()
            if snapshot.newest > seen[job_id]
        ]
        events: dict[str, list[StoredEvent]] = {job_id: [] for job_id in snapshots}
        with self._database.transaction() as session:
            for start in range(0, len(behind), JOBS_PER_QUERY):
                query = select(JobEventRow).where(or_(*behind[start : start + JOBS_PER_QUERY]))
                ordered = query.order_by(JobEventRow.job_id, JobEventRow.number)
                for row in session.scalars(ordered.limit(MAX_NEW_EVENTS)):
                    events[row.job_id].append(_event(row))
        return {
            job_id: JobUpdate(snapshot, events[job_id]) for job_id, snapshot in snapshots.items()
        }

    def _page(
        self, job_id: str, number: int, limit: int, kinds: Collection[str]
    ) -> Sequence[StoredEvent]:
        conditions = (JobEventRow.job_id == job_id, JobEventRow.number > number)
        query = select(JobEventRow).where(*conditions, JobEventRow.kind.in_(kinds))
        with self._database.transaction() as session:
            rows = session.scalars(query.order_by(JobEventRow.number).limit(limit))
            return [_event(row) for row in rows]


def _rows(
    session: Session, job_id: str, items: Sequence[Job | LogMessage], first: int
) -> Iterator[tuple[str, str]]:
    """Yield (kind, data) of the events to store, of which the first has the number `first`."""
    # Messages are counted only when the number of all events reaches the limit.
    free_lines = MAX_LINES - first + 1
    if free_lines < len(items):
        free_lines = max(0, MAX_LINES - session.scalars(_COUNT_MESSAGES, {"job_id_": job_id}).one())
    has_changed = any(isinstance(item, Job) for item in items)
    existing = (
        set() if has_changed else set(session.scalars(_MESSAGES_SINCE_STATE, {"job_id_": job_id}))
    )
    for item in items:
        if isinstance(item, Job):
            yield STATE, item.model_dump_json()
        elif free_lines and (data := _message_json(item)) not in existing:
            free_lines -= 1
            existing.add(data)
            yield LOG, data if free_lines else _message_json(LOG_FULL)


def _message_json(message: LogMessage) -> str:
    """Return a `LogLine` as JSON, without its time, which is a column of the row."""
    text = message.message[:MAX_CHARACTERS].encode(errors="replace").decode()
    fields = {"level": message.level, "message": text}
    return json.dumps(fields | ({"tensor": message.tensor} if message.tensor else {}))


def _event(row: JobEventRow) -> StoredEvent:
    if row.kind == STATE:
        return StoredEvent(row.number, row.kind, row.data)
    line = LogLine(at=row.created_at, **json.loads(row.data))
    return StoredEvent(row.number, row.kind, line.model_dump_json(exclude_none=True))
