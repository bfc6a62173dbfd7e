"""Repository of API keys; secrets are stored as digests only."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Row, bindparam, select, tuple_, update
from sqlalchemy.orm import Session

from palettery.app.database.engine import Clock, Database, utc_now
from palettery.app.database.tables import KeyRow
from palettery.app.errors import NotFound
from palettery.app.keys.quota import usage
from palettery.schemas.keys import Key, NewKey, Usage

ID = re.compile(r"[0-9a-f-]{36}")
"""Pattern of key ids. Other texts are not looked up: some databases fail on them."""
KEY_FIELDS = frozenset(Key.model_fields)

T = TypeVar("T")
U = TypeVar("U")

_ANY_ACTIVE_KEY = select(KeyRow.__table__.c.id).where(KeyRow.revoked_at.is_(None)).limit(1)
_KEY_BY_DIGEST = select(KeyRow.__table__).where(KeyRow.sha256 == bindparam("sha256"))
"""Statements that every request executes; they are built once."""


class KeyRepository:
    """Rows of API keys; each method is one transaction."""

    def __init__(self, database: Database, now: Clock = utc_now) -> None:
        self._database, self.now = database, now

    def add(self, key_id: str, prefix: str, sha256: str, new: NewKey) -> Key:
        """Store and return a new key with the digest of its secret."""
        row = KeyRow(
            id=key_id,
            prefix=prefix,
            sha256=sha256,
            created_at=self.now(),
            **new.model_dump(mode="python"),
        )
        with self._database.transaction() as session:
            session.add(row)
            session.flush()
            return _key_from_row(row)

    def find(self, sha256: str) -> tuple[Key, str] | None:
        """Return the key of the secret with this digest, and the stored digest; None if unknown."""
        with self._database.reading() as connection:
            row = connection.execute(_KEY_BY_DIGEST, {"sha256": sha256}).one_or_none()
        return None if row is None else (_key_from_row(row), row.sha256)

    async def read_in_thread(self, read: Callable[[T], U], argument: T) -> U:
        """Return the result of a function that calls `find` and `exist` only."""
        return await self._database.read_in_thread(read, argument)

    def exist(self) -> bool:
        """Return whether any key is not revoked; expired keys count."""
        with self._database.reading() as connection:
            return connection.scalar(_ANY_ACTIVE_KEY) is not None

    def page(self, limit: int, before: tuple[datetime, str] | None) -> Sequence[Key]:
        """Return keys, newest first, that are older than the given creation time and id."""
        order = tuple_(KeyRow.created_at, KeyRow.id)
        query = select(KeyRow).order_by(KeyRow.created_at.desc(), KeyRow.id.desc()).limit(limit)
        if before is not None:
            query = query.where(order < before)
        with self._database.transaction() as session:
            return [_key_from_row(row) for row in session.scalars(query)]

    def revoke(self, key_id: str) -> None:
        """Revoke a key, unless it is revoked already.

        Raises:
            NotFound: there is no such key.
        """
        change = update(KeyRow).where(KeyRow.id == key_id, KeyRow.revoked_at.is_(None))
        with self._database.transaction() as session:
            if ID.fullmatch(key_id):
                session.execute(change.values(revoked_at=self.now()))
            _check_exists(session, key_id)

    def usage(self, owner: str) -> Usage:
        """Return an owner's usage."""
        with self._database.transaction() as session:
            return usage(session, owner)


def _check_exists(session: Session, key_id: str) -> None:
    if not ID.fullmatch(key_id) or session.get(KeyRow, key_id) is None:
        raise NotFound(f"there is no key {key_id[:64]!r}; see the list of keys")


def _key_from_row(row: KeyRow | Row[Any]) -> Key:
    return Key.model_validate({name: getattr(row, name) for name in KEY_FIELDS})
