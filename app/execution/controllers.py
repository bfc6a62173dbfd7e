"""Rows of the processes that run jobs, so that others see whether there are any."""

from datetime import timedelta

from sqlalchemy import select

from palettery.app.database.engine import Clock, Database, insert, utc_now
from palettery.app.database.tables import ControllerRow
from palettery.schemas.service import Controller

SILENT_AFTER = timedelta(seconds=30)
"""A controller that was not heard of for so long is taken for gone."""


class ControllerRepository:
    """Signs of life, each in its own transaction."""

    def __init__(self, database: Database, now: Clock = utc_now) -> None:
        self._database, self._now = database, now

    def note(self, executor_id: str, workers: int, version: str) -> None:
        """That a controller lives, and how many workers it sees."""
        seen = {"seen_at": self._now(), "workers": workers, "version": version}
        with self._database.transaction() as session:
            made = insert(session, ControllerRow).values(executor_id=executor_id, **seen)
            session.execute(made.on_conflict_do_update(index_elements=["executor_id"], set_=seen))

    def alive(self) -> list[Controller]:
        """Controllers that were heard of lately."""
        since = self._now() - SILENT_AFTER
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
        """The most workers that any living controller sees."""
        return max((each.workers for each in self.alive()), default=0)
