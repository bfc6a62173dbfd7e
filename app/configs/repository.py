"""Rows of named configs; a version is never changed, and all versions are deleted together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session, load_only

from palettery.app.configs.documents import NormalizedConfig
from palettery.app.database.engine import Clock, Database, insert, utc_now
from palettery.app.database.tables import ConfigRow, OwnerRow
from palettery.app.errors import NotFound
from palettery.app.http.caller import UNLIMITED
from palettery.app.keys.quota import within_limits
from palettery.schemas.configs import ConfigSummary
from palettery.schemas.keys import OwnerLimits

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
REFERENCE = re.compile(rf"({NAME.pattern})(?:@([1-9]\d{{0,8}}))?")
"""A name or `name@version`."""

WITHOUT_DOCUMENT = load_only(ConfigRow.sha256, ConfigRow.created_at)
"""Query option that omits the document, which may have megabytes."""


@dataclass(frozen=True)
class StoredConfig:
    """A version of a named config."""

    summary: ConfigSummary
    document: str
    """JSON with every default filled in."""


class ConfigRepository:
    """Reads and writes of config rows, each in its own transaction."""

    def __init__(self, database: Database, now: Clock = utc_now) -> None:
        self._database, self._now = database, now

    def put(
        self, owner: str, name: str, config: NormalizedConfig, limits: OwnerLimits = UNLIMITED
    ) -> tuple[ConfigSummary, bool]:
        """Store a new version unless the newest has the same content.

        Returns the newest version and whether it is new.

        Raises:
            OverQuota: the owner would have more bytes than it may.
        """
        byte_limits = limits.model_copy(update={"queued_jobs": None})
        with self._database.transaction() as session, within_limits(session, owner, byte_limits):
            _lock_owner(session, owner)
            newest = session.scalar(_newest_version(owner, name).options(WITHOUT_DOCUMENT))
            if newest is not None and newest.sha256 == config.sha256:
                return _summary(newest), False
            row = ConfigRow(
                owner=owner,
                name=name,
                version=1 if newest is None else newest.version + 1,
                document=config.document,
                size_bytes=len(config.document),
                sha256=config.sha256,
                created_at=self._now(),
            )
            session.add(row)
            return _summary(row), True

    def get(self, owner: str, reference: str) -> StoredConfig:
        """Return the version `name@version`, or the newest one of `name`.

        Raises:
            NotFound: there is none.
        """
        match = REFERENCE.fullmatch(reference)
        if match is not None:
            name, version = match.groups()
            query = _newest_version(owner, name)
            if version is not None:
                query = query.where(ConfigRow.version == int(version))
            with self._database.transaction() as session:
                row = session.scalar(query)
                if row is not None:
                    return _stored_config(row)
        raise NotFound(f"there is no config {reference[:80]!r}; see the list of your configs")

    def page(self, owner: str, limit: int, after: str | None) -> Sequence[ConfigSummary]:
        """Return the newest version of each name that sorts after `after`."""
        newest = (
            select(ConfigRow.name, func.max(ConfigRow.version).label("version"))
            .where(ConfigRow.owner == owner, ConfigRow.name > (after or ""))
            .group_by(ConfigRow.name)
            .order_by(ConfigRow.name)
            .limit(limit)
            .subquery()
        )
        query = (
            select(ConfigRow)
            .join(
                newest,
                (ConfigRow.name == newest.c.name) & (ConfigRow.version == newest.c.version),
            )
            .where(ConfigRow.owner == owner)
            .order_by(ConfigRow.name)
            .options(WITHOUT_DOCUMENT)
        )
        with self._database.transaction() as session:
            return [_summary(row) for row in session.scalars(query)]

    def delete(self, owner: str, name: str) -> None:
        """Delete a name with all its versions.

        Raises:
            NotFound: there is no such name.
        """
        change = delete(ConfigRow).where(ConfigRow.owner == owner, ConfigRow.name == name)
        with self._database.transaction() as session:
            _lock_owner(session, owner)
            deleted = session.connection().execute(change).rowcount
        if not deleted:
            raise NotFound(f"there is no config {name[:80]!r}; see the list of your configs")


def _lock_owner(session: Session, owner: str) -> None:
    """Lock the owner's row, and with it its configs, until the transaction ends."""
    session.execute(insert(session, OwnerRow).on_conflict_do_nothing(), {"name": owner})
    session.execute(select(OwnerRow).where(OwnerRow.name == owner).with_for_update())


def _newest_version(owner: str, name: str) -> Select[ConfigRow]:
    return (
        select(ConfigRow)
        .where(ConfigRow.owner == owner, ConfigRow.name == name)
        .order_by(ConfigRow.version.desc())
        .limit(1)
    )


def _stored_config(row: ConfigRow) -> StoredConfig:
    return StoredConfig(_summary(row), row.document)


def _summary(row: ConfigRow) -> ConfigSummary:
    reference = f"{row.name}@{row.version}"
    return ConfigSummary(
        name=row.name,
        version=row.version,
        reference=reference,
        sha256=row.sha256,
        created_at=row.created_at,
        links={"self": f"/v1/configs/{reference}"},
    )
