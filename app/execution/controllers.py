"""Rows of controllers, the processes that run jobs, so that other processes can see them."""

from datetime import timedelta

from sqlalchemy import select

from palettery.app.database.engine import Clock, Database, insert, utc_now
from palettery.app.database.tables import ControllerRow
from palettery.schemas.service import Controller

HEARTBEAT_TIMEOUT = timedelta(seconds=30)
"""Time without a heartbeat after which a controller counts as dead."""


class ControllerRepository:
    """Reads and writes of heartbeats, each in its own transaction."""

    def __init__(self, database: Database, now: Clock = utc_now) -> None:
        self._database, self._now = database, now

    def heartbeat(self, executor_id: str, workers: int, version: str) -> None:
        """Store that a controller is alive, and how many workers it has."""
        values = {"seen_at": self._now(), "workers": workers, "version": version}
        with self._database.transaction() as session:
            new = insert(session, ControllerRow).values(executor_id=executor_id, **values)
            session.execute(new.on_conflict_do_update(index_elements=["executor_id"], set_=values))

    def alive(self) -> list[Controller]:
        """Return the controllers with a recent heartbeat."""
        since = self._now() - HEARTBEAT_TIMEOUT
        query = select(ControllerRow).where(ControllerRow.seen_at > since)
        with self._database.transaction() as session:
            rows = session.scalars(query.order_by(ControllerRow.executor_id)).all()
        return [
            Controller(
                executor_id=row.executor_id,
                version=row.version,
                workers=row.workers,
                seen_at=row.seen_at,
            )
            for row in rows
        ]

    def workers(self) -> int:
        """Return the number of workers, as the controller that has most reports it."""
        return max((each.workers for each in self.alive()), default=0)
