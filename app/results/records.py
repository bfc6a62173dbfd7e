"""Rows of the result cache: where it lies what a recipe made of which bytes, for each owner."""

from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute

from app.database import Clock, Database, chunks, insert, utc_now
from app.errors import NotFound
from app.rows import ResultRow
from schemas.tasks import Result, StoredSlice

KEY = ("owner", "content_key")


class ResultRecords:
    """Reads and writes of result rows, each in its own transaction."""

    def __init__(self, database: Database, now: Clock = utc_now) -> None:
        self._database, self._now = database, now

    def by_origin(self, owner: str, keys: Collection[str]) -> dict[str, StoredSlice]:
        """The owner's newest result of each of these origins that has one."""
        return self._found(owner, ResultRow.origin_key, keys)

    def by_content(self, owner: str, keys: Collection[str]) -> dict[str, StoredSlice]:
        """The owner's result of each of these contents that has one."""
        return self._found(owner, ResultRow.content_key, keys)

    def candidates(self, owner: str, recipes: Collection[str]) -> set[str]:
        """Those of the recipes that have any result: the others need no look at bytes."""
        found: set[str] = set()
        with self._database.transaction() as session:
            for chunk in chunks(recipes):
                known = (ResultRow.owner == owner, ResultRow.recipe.in_(chunk))
                found.update(session.scalars(select(ResultRow.recipe).where(*known).distinct()))
        return found

    def remember(self, owner: str, job_id: str, results: Sequence[Result]) -> None:
        """Note results of an owner's job; each takes the place of an older one of the same content.

        Raises:
            NotFound: the job was deleted meanwhile.
        """
        newest = {result.content_key: result for result in results}
        beside = {"owner": owner, "job_id": job_id, "created_at": self._now()}
        # In order of key, so that two jobs never deadlock.
        rows = [_values(newest[key]) | beside for key in sorted(newest)]
        if not rows:
            return
        try:
            with self._database.transaction() as session:
                made = insert(session, ResultRow)
                changed = {name: made.excluded[name] for name in rows[0] if name not in KEY}
                upsert = made.on_conflict_do_update(index_elements=KEY, set_=changed)
                session.connection().execute(upsert, rows)
        except IntegrityError as error:
            raise NotFound(f"there is no job {job_id[:64]!r}; it was deleted") from error

    def _found(
        self, owner: str, column: InstrumentedAttribute[str], keys: Collection[str]
    ) -> dict[str, StoredSlice]:
        found: dict[str, StoredSlice] = {}
        with self._database.transaction() as session:
            for chunk in chunks(keys):
                query = (
                    select(column, ResultRow.stored)
                    .where(ResultRow.owner == owner, column.in_(chunk))
                    .order_by(ResultRow.created_at, ResultRow.content_key)
                )
                for key, stored in session.execute(query):
                    found[key] = StoredSlice.model_validate_json(stored)
        return found


def _values(result: Result) -> dict[str, object]:
    return {
        "content_key": result.content_key,
        "origin_key": result.origin_key,
        "recipe": result.recipe,
        "stored": result.stored.model_dump_json(),
    }
