"""Rows of changes to the list of jobs: jobs that were queued, changed their state or were deleted.

The events of a single job (`events.repository`) are another feed, which includes log messages and
has numbers without gaps.

Numbers are assigned in the order of the changes and become visible in the order in which
transactions end. So a missing number is awaited for a while: it may yet appear, or its transaction
has failed.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import bindparam, delete, func, insert, or_, select
from sqlalchemy.orm import Session

from palettery.app.database.engine import Database, chunks
from palettery.app.database.job_lookup import job_from_row
from palettery.app.database.tables import JobChangeRow, JobRow
from palettery.schemas.jobs import LISTED_KINDS

MAX_CHANGES = 10_000
"""Number of changes that are stored; a reader that is further behind must start over."""
BATCH = 1_000
"""Maximum number of changes per read."""
OVERLAP = 200
"""Numbers below the newest among which missing ones are awaited."""
MISSING_TIMEOUT_S = 60.0
"""Time after which a missing number is given up; no transaction takes that long."""

_ADD = insert(JobChangeRow)
_NEWEST = select(JobChangeRow.number).order_by(JobChangeRow.number.desc()).limit(OVERLAP)
_OLDEST = select(func.min(JobChangeRow.number))
_CHANGES_AFTER = (
    select(JobChangeRow.__table__)
    .where(
        or_(
            JobChangeRow.number > bindparam("newest"),
            JobChangeRow.number.in_(bindparam("missing", expanding=True)),
        )
    )
    .order_by(JobChangeRow.number)
    .limit(BATCH)
)
_JOBS = select(JobRow.__table__).where(JobRow.id.in_(bindparam("ids", expanding=True)))
_RUNNING = select(JobRow.__table__).where(
    JobRow.owner.in_(bindparam("owners", expanding=True)),
    JobRow.state == "running",
    JobRow.kind.in_(LISTED_KINDS),
)
_DELETE = delete(JobChangeRow).where(JobChangeRow.number <= bindparam("last"))
_LAST = select(func.max(JobChangeRow.number))

JobsByOwner = dict[str, dict[str, str | None]]
"""Owner -> id of a job -> the job as JSON, None for a deleted one."""


@dataclass(frozen=True)
class ChangePosition:
    """Position of a reader in the sequence of changes."""

    newest: int
    missing: Mapping[int, float]
    """Smaller numbers that were not visible yet -> time until which the reader waits for them."""


class JobChanges(NamedTuple):
    """Changes since a position."""

    position: ChangePosition
    changed: JobsByOwner
    """Jobs in their present state."""
    running: JobsByOwner
    """All running jobs, read a moment later."""


def add_change(session: Session, owner: str, job_id: str) -> None:
    """Store that a job has changed, within the session's transaction."""
    session.connection().execute(_ADD, {"owner": owner, "job_id": job_id})


class JobChangeRepository:
    """Reads of changes, each in its own transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def latest_position(self) -> ChangePosition:
        """Return the position behind all changes so far."""
        with self._database.reading() as connection:
            numbers = set(connection.scalars(_NEWEST))
        return _advance(ChangePosition(min(numbers, default=0), {}), numbers)

    def changes_since(self, position: ChangePosition, owners: Collection[str]) -> JobChanges | None:
        """Return the changes of these owners' jobs; None if some of them are no longer stored."""
        parameters = {"newest": position.newest, "missing": list(position.missing)}
        with self._database.reading() as connection:
            rows = connection.execute(_CHANGES_AFTER, parameters).all()
            if rows and (connection.scalar(_OLDEST) or 0) > position.newest + 1:
                return None
        owner_of_job = {row.job_id: row.owner for row in rows if row.owner in owners}
        changed: JobsByOwner = {}
        for job_id, owner in owner_of_job.items():
            changed.setdefault(owner, {})[job_id] = None
        for owner, jobs in self._jobs("ids", owner_of_job).items():
            changed[owner] |= jobs
        new_position = _advance(position, {row.number for row in rows})
        return JobChanges(new_position, changed, self._jobs("owners", owners))

    def delete_old(self) -> None:
        """Delete all but the newest changes."""
        with self._database.transaction() as session:
            last = session.scalar(_LAST) or 0
            session.connection().execute(_DELETE, {"last": last - MAX_CHANGES})

    def _jobs(self, by: str, values: Collection[str]) -> JobsByOwner:
        """Return the jobs with these ids, or the running jobs of these owners."""
        jobs: JobsByOwner = {}
        query = {"ids": _JOBS, "owners": _RUNNING}[by]
        with self._database.reading() as connection:
            for chunk in chunks(values):
                for row in connection.execute(query, {by: chunk}):
                    jobs.setdefault(row.owner, {})[row.id] = job_from_row(row).model_dump_json()
        return jobs


def _advance(position: ChangePosition, seen: Collection[int]) -> ChangePosition:
    """Return the position of a reader that has seen these numbers too."""
    now, newest = time.monotonic(), max(seen, default=position.newest)
    newest = max(newest, position.newest)
    skipped = dict.fromkeys(range(position.newest + 1, newest), now + MISSING_TIMEOUT_S)
    missing_numbers = {**skipped, **position.missing}
    return ChangePosition(
        newest,
        {
            n: deadline
            for n, deadline in missing_numbers.items()
            if n not in seen and deadline > now
        },
    )
