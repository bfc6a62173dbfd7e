"""Rows of what happened to jobs: changes of state, and lines of their logs.

A job's row tells the number of its newest event, and is changed by every transaction that adds
some. So numbers have no gaps, and whoever sees an event can see all before it.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import and_, bindparam, func, insert, or_, select, update
from sqlalchemy.orm import Session

from palettery.app.database.engine import Clock, Database, chunks, utc_now
from palettery.app.database.job_rows import find_job
from palettery.app.database.tables import JobEventRow, JobRow
from palettery.app.events.job_changes import note
from palettery.app.events.log_messages import Line
from palettery.schemas.events import LogLine, LogPage
from palettery.schemas.jobs import ENDED, Job, Progress

STATE, LOG = "state", "log"
MOST_LINES = 1_000
"""Of one job; the last one says so."""
MOST_CHARACTERS = 2_000
"""Of one line."""
OR_LIST = 100
"""Jobs whose news are asked for in one statement; SQLite nests no more than a thousand."""
MOST_NEWS = 1_000
"""Of all of them."""
_OWN = JobEventRow.job_id == bindparam("own")
_RESERVE = (
    update(JobRow)
    .where(JobRow.id == bindparam("own"))
    .values(last_event=JobRow.last_event + bindparam("more"))
    .returning(JobRow.last_event)
)
_ADD = insert(JobEventRow)
_LINES = select(func.count()).where(_OWN, JobEventRow.kind == LOG)
_CHANGED = select(func.max(JobEventRow.number)).where(_OWN, JobEventRow.kind == STATE)
_SAID = select(JobEventRow.data).where(
    _OWN, JobEventRow.number > func.coalesce(_CHANGED.scalar_subquery(), 0)
)
"""Statements that are made once: to put one together takes longer than SQLite does to run it."""
FULL = Line(f"a log keeps {MOST_LINES:,} lines; what comes after this one is lost", "warning")


class StoredEvent(NamedTuple):
    """A stored event, as it is told."""

    number: int
    kind: str
    data: str
    """JSON: a `Job`, or a `LogLine`."""


@dataclass(frozen=True)
class Standing:
    """How a job stands, and the number of its newest event."""

    newest: int
    has_ended: bool
    progress: Progress


class News(NamedTuple):
    """What a job has become since somebody looked."""

    standing: Standing
    events: Sequence[StoredEvent]


def record(
    session: Session, job_id: str, at: datetime, happened: Sequence[Job | Line]
) -> int | None:
    """Add events to a job, a `Job` as a change of state; the newest number, None without a job.

    Of lines alone, one that says the same as one since the last change of state is left out, so
    that work which is done again and again does not tell so again and again.
    """
    connection, count = session.connection(), len(happened)
    # Nobody else adds events until this transaction ends: its row is locked, by any change.
    reserved = {"own": job_id, "more": count}
    newest = connection.execute(_RESERVE, reserved).scalar_one_or_none()
    if newest is None:
        return None
    first = newest - count + 1
    events = list(_to_keep(session, job_id, happened, first))
    if events:
        rows = [
            {"job_id": job_id, "number": number, "kind": kind, "data": data, "created_at": at}
            for number, (kind, data) in enumerate(events, first)
        ]
        connection.execute(_ADD, rows)
    if len(events) < count:
        newest = first - 1 + len(events)
        connection.execute(_RESERVE, {"own": job_id, "more": len(events) - count})
    for each in happened:
        if isinstance(each, Job):
            note(session, each.owner, job_id)
    return newest


class EventRepository:
    """Reads of events, and lines of logs added, each in its own transaction."""

    def __init__(self, database: Database, now: Clock = utc_now) -> None:
        self._database, self._now = database, now

    def check_owner(self, owner: str, job_id: str) -> None:
        """Check that an owner has a job.

        Raises:
            NotFound: there is no such job.
        """
        with self._database.reading() as connection:
            find_job(connection, job_id, owner)

    def log(self, job_id: str, *lines: Line) -> None:
        """Add lines to a job's log; one that was deleted meanwhile has none."""
        with self._database.transaction() as session:
            record(session, job_id, self._now(), lines)

    def after(self, job_id: str, number: int, limit: int) -> Sequence[StoredEvent]:
        """The first events of a job behind that number."""
        return self._told(job_id, number, limit, (STATE, LOG))

    def lines(self, job_id: str, number: int, limit: int) -> LogPage:
        """The first lines of a job's log behind the event of that number."""
        found = self._told(job_id, number, limit, (LOG,))
        return LogPage(
            items=tuple(LogLine.model_validate_json(event.data) for event in found),
            next_after=found[-1].number if found else number,
        )

    def state(self, job_id: str, number: int) -> tuple[datetime, Job] | None:
        """When a job changed its state by the event of that number, and how it stood then."""
        with self._database.transaction() as session:
            row = session.get(JobEventRow, (job_id, number))
            if row is None:
                return None
            return row.created_at, Job.model_validate_json(row.data)

    def standings(self, ids: Collection[str]) -> dict[str, Standing]:
        """How each of these jobs stands that there is."""
        columns = [getattr(JobRow, name) for name in Progress.model_fields]
        found = {}
        with self._database.transaction() as session:
            for chunk in chunks(ids):
                query = select(JobRow.id, JobRow.last_event, JobRow.state, *columns)
                for row in session.execute(query.where(JobRow.id.in_(chunk))):
                    progress = Progress(
                        **{name: getattr(row, name) for name in Progress.model_fields}
                    )
                    found[row.id] = Standing(row.last_event, row.state in ENDED, progress)
        return found

    def news(self, seen: Mapping[str, int]) -> dict[str, News]:
        """How each of these jobs stands, and its first events behind the number given for it."""
        standings = self.standings(seen)
        behind = [
            and_(JobEventRow.job_id == job_id, JobEventRow.number > seen[job_id])
            for job_id, standing in standings.items()
            if standing.newest > seen[job_id]
        ]
        events: dict[str, list[StoredEvent]] = {job_id: [] for job_id in standings}
        with self._database.transaction() as session:
            for start in range(0, len(behind), OR_LIST):
                query = select(JobEventRow).where(or_(*behind[start : start + OR_LIST]))
                ordered = query.order_by(JobEventRow.job_id, JobEventRow.number)
                for row in session.scalars(ordered.limit(MOST_NEWS)):
                    events[row.job_id].append(_event(row))
        return {job_id: News(standing, events[job_id]) for job_id, standing in standings.items()}

    def _told(
        self, job_id: str, number: int, limit: int, kinds: Collection[str]
    ) -> Sequence[StoredEvent]:
        own = (JobEventRow.job_id == job_id, JobEventRow.number > number)
        query = select(JobEventRow).where(*own, JobEventRow.kind.in_(kinds))
        with self._database.transaction() as session:
            rows = session.scalars(query.order_by(JobEventRow.number).limit(limit))
            return [_event(row) for row in rows]


def _to_keep(
    session: Session, job_id: str, happened: Sequence[Job | Line], first: int
) -> Iterator[tuple[str, str]]:
    """Kind and data of the events that become rows, if the first of them has that number."""
    # Other events count as lines, too, until there are so many that they have to be told apart.
    room = MOST_LINES - first + 1
    if room < len(happened):
        room = max(0, MOST_LINES - session.scalars(_LINES, {"own": job_id}).one())
    has_changed = any(isinstance(each, Job) for each in happened)
    said = set() if has_changed else set(session.scalars(_SAID, {"own": job_id}))
    for each in happened:
        if isinstance(each, Job):
            yield STATE, each.model_dump_json()
        elif room and (data := _written(each)) not in said:
            room -= 1
            said.add(data)
            yield LOG, data if room else _written(FULL)


def _written(line: Line) -> str:
    """A line in its row; when it was written, the row tells."""
    message = line.message[:MOST_CHARACTERS].encode(errors="replace").decode()
    said = {"level": line.level, "message": message}
    return json.dumps(said | ({"tensor": line.tensor} if line.tensor else {}))


def _event(row: JobEventRow) -> StoredEvent:
    if row.kind == STATE:
        return StoredEvent(row.number, row.kind, row.data)
    line = LogLine(at=row.created_at, **json.loads(row.data))
    return StoredEvent(row.number, row.kind, line.model_dump_json(exclude_none=True))
