"""Rows of the result cache: location of each result by its recipe and input bytes, per owner."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import BindParameter, Select, bindparam, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute

from palettery.app.database.engine import Clock, Database, chunks, insert, utc_now
from palettery.app.database.tables import ResultRow
from palettery.app.errors import NotFound
from palettery.schemas.tasks import Result, StoredSlice

KEY = ("owner", "content_key")
_OF_OWNER = ResultRow.owner == bindparam("owner")
_KEYS: BindParameter[Any] = bindparam("keys", expanding=True)


def _by(column: InstrumentedAttribute[str]) -> Select[str, str]:
    query = select(column, ResultRow.stored).where(_OF_OWNER, column.in_(_KEYS))
    return query.order_by(ResultRow.created_at, ResultRow.content_key)


_BY_ORIGIN, _BY_CONTENT = _by(ResultRow.origin_key), _by(ResultRow.content_key)
_CANDIDATES = select(ResultRow.recipe).where(_OF_OWNER, ResultRow.recipe.in_(_KEYS)).distinct()
"""Statements are built once: building one takes longer than running it."""


class ResultRepository:
    """Reads and changes result rows, each in a transaction of its own."""

    def __init__(self, database: Database, now: Clock = utc_now) -> None:
        self._database, self._now = database, now

    def by_origin(self, owner: str, keys: Collection[str]) -> dict[str, StoredSlice]:
        """Return the owner's newest result for each of these origins that has one."""
        return self._results(_BY_ORIGIN, owner, keys)

    def by_content(self, owner: str, keys: Collection[str]) -> dict[str, StoredSlice]:
        """Return the owner's result for each of these contents that has one."""
        return self._results(_BY_CONTENT, owner, keys)

    def candidates(self, owner: str, recipes: Collection[str]) -> set[str]:
        """Return the recipes that have a result; inputs of the others need not be digested."""
        candidates: set[str] = set()
        with self._database.reading() as connection:
            for chunk in chunks(recipes):
                parameters = {"owner": owner, "keys": chunk}
                candidates.update(connection.scalars(_CANDIDATES, parameters))
        return candidates

    def remember(self, owner: str, job_id: str, results: Sequence[Result]) -> None:
        """Store results of an owner's job; each replaces an older one of the same content.

        Raises:
            NotFound: the job was deleted meanwhile.
        """
        newest = {result.content_key: result for result in results}
        common = {"owner": owner, "job_id": job_id, "created_at": self._now()}
        # In order of key, so that two jobs never deadlock.
        rows = [_values(newest[key]) | common for key in sorted(newest)]
        if not rows:
            return
        try:
            with self._database.transaction() as session:
                insertion = insert(session, ResultRow)
                changed = {name: insertion.excluded[name] for name in rows[0] if name not in KEY}
                upsert = insertion.on_conflict_do_update(index_elements=KEY, set_=changed)
                session.connection().execute(upsert, rows)
        except IntegrityError as error:
            raise NotFound(f"there is no job {job_id[:64]!r}; it was deleted") from error

    def _results(
        self, query: Select[str, str], owner: str, keys: Collection[str]
    ) -> dict[str, StoredSlice]:
        results: dict[str, StoredSlice] = {}
        with self._database.reading() as connection:
            for chunk in chunks(keys):
                for key, stored in connection.execute(query, {"owner": owner, "keys": chunk}):
                    results[key] = StoredSlice.model_validate_json(stored)
        return results


def _values(result: Result) -> dict[str, object]:
    return {
        "content_key": result.content_key,
        "origin_key": result.origin_key,
        "recipe": result.recipe,
        "stored": result.stored.model_dump_json(),
    }
