"""Which jobs were queued, changed their state or are gone, for those who watch lists of them.

Numbers are taken in the order of the changes and seen in the order in which transactions end. So
one that does not show is awaited for a while: it may yet come, or its transaction has failed.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import bindparam, delete, func, insert, or_, select
from sqlalchemy.orm import Session

from palettery.app.database.engine import Database, chunks
from palettery.app.database.job_rows import job_from_row
from palettery.app.database.tables import JobChangeRow, JobRow

KEPT = 10_000
"""Changes; who has not looked for longer has to begin anew."""
AT_ONCE = 1_000
"""Changes that one look takes in."""
OVERLAP = 200
"""Numbers below the newest among which those are awaited that do not show."""
AWAITED_S = 60.0
"""For how long; no transaction takes that long to end."""

_NOTE = insert(JobChangeRow)
_NEWEST = select(JobChangeRow.number).order_by(JobChangeRow.number.desc()).limit(OVERLAP)
_OLDEST = select(func.min(JobChangeRow.number))
_BEHIND = (
    select(JobChangeRow.__table__)
    .where(
        or_(
            JobChangeRow.number > bindparam("newest"),
            JobChangeRow.number.in_(bindparam("missing", expanding=True)),
        )
    )
    .order_by(JobChangeRow.number)
    .limit(AT_ONCE)
)
_JOBS = select(JobRow.__table__).where(JobRow.id.in_(bindparam("ids", expanding=True)))
_RUNNING = select(JobRow.__table__).where(
    JobRow.owner.in_(bindparam("owners", expanding=True)), JobRow.state == "running"
)
_FORGET = delete(JobChangeRow).where(JobChangeRow.number <= bindparam("last"))
_LAST = select(func.max(JobChangeRow.number))

News = dict[str, dict[str, str | None]]
"""Owner -> id of a job -> the job as JSON, None for one that is gone."""


@dataclass(frozen=True)
class Position:
    """Up to where changes were seen."""

    newest: int
    missing: Mapping[int, float]
    """Smaller numbers that did not show yet, and until when they are awaited."""


class Look(NamedTuple):
    """What was found behind a position."""

    position: Position
    changed: News
    """Jobs as they stand now."""
    running: News
    """All of them, a moment later."""


def note(session: Session, owner: str, job_id: str) -> None:
    """That a job is not what it was."""
    session.connection().execute(_NOTE, {"owner": owner, "job_id": job_id})


class JobChangeRepository:
    """Reads of changes, each in its own transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def position(self) -> Position:
        """Where all that has happened by now was seen."""
        with self._database.reading() as connection:
            numbers = set(connection.scalars(_NEWEST))
        return _moved(Position(min(numbers, default=0), {}), numbers)

    def look(self, since: Position, owners: Collection[str]) -> Look | None:
        """What these owners' jobs have become since; None if that is not known any more."""
        asked = {"newest": since.newest, "missing": list(since.missing)}
        with self._database.reading() as connection:
            rows = connection.execute(_BEHIND, asked).all()
            if rows and (connection.scalar(_OLDEST) or 0) > since.newest + 1:
                return None
        own = {row.job_id: row.owner for row in rows if row.owner in owners}
        changed: News = {}
        for job_id, owner in own.items():
            changed.setdefault(owner, {})[job_id] = None
        for owner, jobs in self._shown("ids", own).items():
            changed[owner] |= jobs
        position = _moved(since, {row.number for row in rows})
        return Look(position, changed, self._shown("owners", owners))

    def forget_old(self) -> None:
        """Remove all but the newest."""
        with self._database.transaction() as session:
            last = session.scalar(_LAST) or 0
            session.connection().execute(_FORGET, {"last": last - KEPT})

    def _shown(self, by: str, among: Collection[str]) -> News:
        """Jobs with these ids, or the running ones of these owners."""
        found: News = {}
        query = {"ids": _JOBS, "owners": _RUNNING}[by]
        with self._database.reading() as connection:
            for chunk in chunks(among):
                for row in connection.execute(query, {by: chunk}):
                    found.setdefault(row.owner, {})[row.id] = job_from_row(row).model_dump_json()
        return found


def _moved(since: Position, found: Collection[int]) -> Position:
    """Where somebody is who has seen these numbers too."""
    now, newest = time.monotonic(), max(found, default=since.newest)
    newest = max(newest, since.newest)
    skipped = dict.fromkeys(range(since.newest + 1, newest), now + AWAITED_S)
    awaited = {**skipped, **since.missing}
    return Position(
        newest, {n: until for n, until in awaited.items() if n not in found and until > now}
    )
