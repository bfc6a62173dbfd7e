"""The order in which queued jobs are served: owners take turns, priority orders an owner's own.

Every queued job has a turn, and the lowest turn is served first. A new job's turn is one step
behind the last of its owner's queued jobs of its priority or a higher one; with none queued, one
step behind the owner's last job that was started; but never before the turn that is served now.
So an owner with a long queue and one with a single job are served alternately.
Source: Goyal, Vin and Cheng, Start-time Fair Queueing, SIGCOMM 1996; a job is a packet of size 1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, select, update
from sqlalchemy.orm import Session

from palettery.app.database.engine import Database, insert
from palettery.app.database.tables import JobRow, OwnerRow

STEP = 100
"""Between two turns of an owner of weight 1; of one of weight 2, half as much."""
RESTART = 1 << 30
"""Turns begin anew from here; the engine counts to twice as much."""

Move = Callable[[Session, Sequence[tuple[str, int]], int], None]
"""Has the engine serve attempts later, within a transaction: (session, attempts, by how much)."""

_QUEUED = (JobRow.owner == bindparam("by"), JobRow.state == "queued")
_IS_LOWER = JobRow.priority < bindparam("least")
_CLOCK = select(func.max(OwnerRow.turn)).scalar_subquery()
_PLACE = select(
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
"""Made once: to put them together takes longer than to run them."""


class OwnerTurns:
    """Turns of the jobs of one database, with a weight for each owner that has not 1."""

    def __init__(
        self,
        database: Database,
        weights: Mapping[str, float] | None = None,
        move: Move | None = None,
    ) -> None:
        self._database, self._weights, self._move = database, weights or {}, move

    def take(self, session: Session, owner: str, priority: int) -> int:
        """The turn of an owner's next job; its queued jobs of a lower priority come behind it.

        Until the transaction ends nobody else takes one for the same owner.
        """
        connection, step = session.connection(), self._step(owner)
        started = _lock(session, owner)
        asked = {"by": owner, "least": priority}
        clock, before, behind = connection.execute(_PLACE, asked).one()
        turn = self._first(owner, clock, started) if before is None else int(before) + step
        if behind is not None and behind < turn + step:
            self._shift(session, turn + step - behind, owner, JobRow.priority < priority)
        return turn

    def start(self, session: Session, job_id: str, attempt: int) -> None:
        """Note that a queued job is served now.

        It belongs before everything else that the transaction locks.
        """
        session.connection().execute(_START, {"own": job_id, "at": attempt})

    def close_up(self) -> None:
        """Move up the jobs of owners whose next ones were cancelled or deleted."""
        with self._database.transaction() as session:
            clock = session.scalar(select(_CLOCK)) or 0
            if clock > RESTART:
                session.execute(update(OwnerRow).values(turn=None))
        with self._database.reading() as connection:
            clock = connection.scalar(select(_CLOCK))
            heads = connection.execute(_HEADS).all()
        for owner, head, started in heads:
            if head > self._first(owner, clock, started):
                self._close_up(owner)

    def _close_up(self, owner: str) -> None:
        with self._database.transaction() as session:
            started = _lock(session, owner)
            clock, head, _ = session.connection().execute(_PLACE, {"by": owner, "least": 0}).one()
            first = self._first(owner, clock, started)
            if head is not None and head > first:
                self._shift(session, first - head, owner)

    def _first(self, owner: str, clock: int | None, started: int | None) -> int:
        """The least turn of an owner's jobs, of which the one of turn `started` was served last."""
        return max(clock or 0, 0 if started is None else started + self._step(owner))

    def _shift(self, session: Session, by: int, owner: str, *which: ColumnElement[bool]) -> None:
        """Move an owner's queued jobs."""
        change = update(JobRow).where(JobRow.owner == owner, JobRow.state == "queued", *which)
        moved = change.values(turn=JobRow.turn + by).returning(JobRow.id, JobRow.attempt)
        attempts = [(row.id, row.attempt) for row in session.connection().execute(moved)]
        if self._move is not None:
            self._move(session, attempts, by)

    def _step(self, owner: str) -> int:
        return max(1, round(STEP / self._weights.get(owner, 1.0)))


def _lock(session: Session, owner: str) -> int | None:
    """Have an owner's row to ourselves until the transaction ends; its last turn served."""
    made = insert(session, OwnerRow)
    mine = made.on_conflict_do_update(
        index_elements=[OwnerRow.name], set_={"name": made.excluded.name}
    )
    row: Any = session.connection().execute(mine.returning(OwnerRow.turn), {"name": owner}).one()
    return None if row.turn is None else int(row.turn)
