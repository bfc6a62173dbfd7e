"""Rows of keys. A secret is kept as its digest alone."""

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
"""Anything else is no key's id, and some databases choke on it."""
SHOWN = frozenset(Key.model_fields)

T = TypeVar("T")
U = TypeVar("U")

_ANY = select(KeyRow.__table__.c.id).where(KeyRow.revoked_at.is_(None)).limit(1)
_OF = select(KeyRow.__table__).where(KeyRow.sha256 == bindparam("sha256"))
"""Made once: every request asks one of them."""


class KeyRepository:
    """Reads and writes of key rows, each in its own transaction."""

    def __init__(self, database: Database, now: Clock = utc_now) -> None:
        self._database, self.now = database, now

    def add(self, key_id: str, prefix: str, sha256: str, new: NewKey) -> Key:
        """A new key, of a secret with this digest."""
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
            return _key(row)

    def find(self, sha256: str) -> tuple[Key, str] | None:
        """The key of a secret with this digest, and the digest as it is kept."""
        with self._database.reading() as connection:
            row = connection.execute(_OF, {"sha256": sha256}).one_or_none()
        return None if row is None else (_key(row), row.sha256)

    async def quickly(self, read: Callable[[T], U], asked: T) -> U:
        """What a function finds that asks no more than `find` and `are_there`."""
        return await self._database.read_in_thread(read, asked)

    def are_there(self) -> bool:
        """Whether there is any key that was not revoked; those that have expired count."""
        with self._database.reading() as connection:
            return connection.scalar(_ANY) is not None

    def page(self, limit: int, before: tuple[datetime, str] | None) -> Sequence[Key]:
        """Keys, newest first, older than the one made then with this id."""
        order = tuple_(KeyRow.created_at, KeyRow.id)
        query = select(KeyRow).order_by(KeyRow.created_at.desc(), KeyRow.id.desc()).limit(limit)
        if before is not None:
            query = query.where(order < before)
        with self._database.transaction() as session:
            return [_key(row) for row in session.scalars(query)]

    def revoke(self, key_id: str) -> None:
        """Have a key not be valid from now on; a second time changes nothing.

        Raises:
            NotFound: there is no such key.
        """
        change = update(KeyRow).where(KeyRow.id == key_id, KeyRow.revoked_at.is_(None))
        with self._database.transaction() as session:
            if ID.fullmatch(key_id):
                session.execute(change.values(revoked_at=self.now()))
            _existing(session, key_id)

    def usage(self, owner: str) -> Usage:
        """What an owner has."""
        with self._database.transaction() as session:
            return usage(session, owner)


def _existing(session: Session, key_id: str) -> KeyRow:
    row = session.get(KeyRow, key_id) if ID.fullmatch(key_id) else None
    if row is None:
        raise NotFound(f"there is no key {key_id[:64]!r}; see the list of your keys")
    return row


def _key(row: KeyRow | Row[Any]) -> Key:
    return Key.model_validate({name: getattr(row, name) for name in SHOWN})
