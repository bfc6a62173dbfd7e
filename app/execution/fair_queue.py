"""Fair queueing of jobs: owners take turns, and priorities order the jobs of one owner.

Every queued job has a turn, and the lowest turn is served first. A new job's turn is one step after
the last of its owner's queued jobs of the same or a higher priority; if none is queued, one step
after the owner's last started job; but never before the turn that is served now. So an owner with a
long queue and one with a single job are served alternately.
Source: Goyal, Vin and Cheng, Start-time Fair Queueing, SIGCOMM 1996; a job is a packet of size 1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, select, update
from sqlalchemy.orm import Session

from palettery.app.database.engine import Database, insert
from palettery.app.database.tables import JobRow, OwnerRow

STEP = 100
"""Distance of the turns of an owner of weight 1; for weight 2, half as much."""
RESTART = 1 << 30
"""Turns start over at this number; the engine counts to twice as much."""

Move = Callable[[Session, Sequence[tuple[str, int]], int], None]
"""Moves attempts in the engine's queue, within a transaction: (session, attempts, turns)."""

_QUEUED = (JobRow.owner == bindparam("by"), JobRow.state == "queued")
_IS_LOWER = JobRow.priority < bindparam("least")
_CLOCK = select(func.max(OwnerRow.turn)).scalar_subquery()
_POSITION = select(
    _CLOCK,
    select(func.max(JobRow.turn)).where(*_QUEUED, ~_IS_LOWER).scalar_subquery(),
    select(func.min(JobRow.turn)).where(*_QUEUED, _IS_LOWER).scalar_subquery(),
)
_HEADS = (
    select(JobRow.owner, func.min(JobRow.turn), OwnerRow.turn)
    .join(OwnerRow, OwnerRow.name == JobRow.owner)
    .where(JobRow.state == "queued")
    .group_by(JobRow.owner, OwnerRow.turn)
)
_STARTED = JobRow.id == bindparam("own"), JobRow.attempt == bindparam("at")
_TURN = select(JobRow.turn).where(*_STARTED).scalar_subquery()
_WHOSE = select(JobRow.owner).where(*_STARTED, JobRow.state == "queued").scalar_subquery()
_START = (
    update(OwnerRow)
    .values(turn=_TURN)
    .where(OwnerRow.name == _WHOSE, func.coalesce(OwnerRow.turn, -1) < _TURN)
)
"""Statements are built once: building one takes longer than running it."""


class OwnerTurns:
    """Turns of the jobs in one database; `weights` has the owners whose weight is not 1."""

    def __init__(
        self,
        database: Database,
        weights: Mapping[str, float] | None = None,
        move: Move | None = None,
    ) -> None:
        self._database, self._weights, self._move = database, weights or {}, move

    def take(self, session: Session, owner: str, priority: int) -> int:
        """Return the turn of an owner's new job, and move its jobs of lower priority behind.

        The owner's row is locked until the transaction ends.
        """
        connection, step = session.connection(), self._step(owner)
        started = _lock(session, owner)
        parameters = {"by": owner, "least": priority}
        clock, before, behind = connection.execute(_POSITION, parameters).one()
        turn = self._first(owner, clock, started) if before is None else int(before) + step
        if behind is not None and behind < turn + step:
            self._shift(session, turn + step - behind, owner, JobRow.priority < priority)
        return turn

    def start(self, session: Session, job_id: str, attempt: int) -> None:
        """Store that a queued job is served now, before the transaction locks other rows."""
        session.connection().execute(_START, {"own": job_id, "at": attempt})

    def close_gaps(self) -> None:
        """Move the jobs of owners up whose first ones were cancelled or deleted."""
        with self._database.transaction() as session:
            clock = session.scalar(select(_CLOCK)) or 0
            if clock > RESTART:
                session.execute(update(OwnerRow).values(turn=None))
        with self._database.reading() as connection:
            clock = connection.scalar(select(_CLOCK))
            heads = connection.execute(_HEADS).all()
        for owner, head, started in heads:
            if head > self._first(owner, clock, started):
                self._close_gap(owner)

    def _close_gap(self, owner: str) -> None:
        with self._database.transaction() as session:
            started = _lock(session, owner)
            clock, head, _ = (
                session.connection().execute(_POSITION, {"by": owner, "least": 0}).one()
            )
            first = self._first(owner, clock, started)
            if head is not None and head > first:
                self._shift(session, first - head, owner)

    def _first(self, owner: str, clock: int | None, started: int | None) -> int:
        """Return the lowest turn for an owner whose last served job had the turn `started`."""
        return max(clock or 0, 0 if started is None else started + self._step(owner))

    def _shift(self, session: Session, by: int, owner: str, *which: ColumnElement[bool]) -> None:
        """Move an owner's queued jobs by `by` turns."""
        change = update(JobRow).where(JobRow.owner == owner, JobRow.state == "queued", *which)
        shift = change.values(turn=JobRow.turn + by).returning(JobRow.id, JobRow.attempt)
        attempts = [(row.id, row.attempt) for row in session.connection().execute(shift)]
        if self._move is not None:
            self._move(session, attempts, by)

    def _step(self, owner: str) -> int:
        return max(1, round(STEP / self._weights.get(owner, 1.0)))


def _lock(session: Session, owner: str) -> int | None:
    """Add or lock an owner's row until the transaction ends; return its last served turn."""
    new = insert(session, OwnerRow)
    upsert = new.on_conflict_do_update(
        index_elements=[OwnerRow.name], set_={"name": new.excluded.name}
    )
    row: Any = session.connection().execute(upsert.returning(OwnerRow.turn), {"name": owner}).one()
    return None if row.turn is None else int(row.turn)
