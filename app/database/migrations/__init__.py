"""Brings a database's tables to what this code expects, and refuses what it does not know."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from palettery.app.database.engine import Database, reported
from palettery.app.errors import BadInput

FIRST = "0001"
"""What a database is at that was made before it kept count."""
LOCK = 0x70616C6574746572
"""Of Postgres, held while migrating: the letters "paletter"."""


@dataclass(frozen=True)
class Migrated:
    """Revisions of a database, before and after."""

    before: str | None
    after: str


def migrate(database: Database) -> Migrated:
    """Bring a database to the newest revision, all or nothing; others who try meanwhile wait.

    Raises:
        BadInput: the database is newer than this code.
        DatabaseFailed: the database is away, or was locked for too long.
    """
    config = _config()
    known = ScriptDirectory.from_config(config)
    with reported(), database.engine.connect() as connection, _alone(connection):
        config.attributes["connection"] = connection
        before = _revision(connection)
        _check_known(before, known)
        if before is None and inspect(connection).has_table("jobs"):
            command.stamp(config, FIRST)
            before = FIRST
        command.upgrade(config, "head")
        return Migrated(before, _newest(known))


def check_migrated(database: Database) -> None:
    """See that a database is at the newest revision; changes nothing.

    Raises:
        BadInput: it is older or newer than this code.
        DatabaseFailed: the database is away.
    """
    known = ScriptDirectory.from_config(_config())
    with reported(), database.engine.connect() as connection:
        found = _revision(connection)
    _check_known(found, known)
    if found != _newest(known):
        raise BadInput(
            f"the database is at {found or 'no revision'}, and this Palettery needs "
            f"{_newest(known)}: run `palettery migrate`; refusing to start"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "palettery.app.database:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _newest(known: ScriptDirectory) -> str:
    newest = known.get_current_head()
    assert newest is not None  # noqa: S101 - they ship beside this file
    return newest


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _check_known(found: str | None, known: ScriptDirectory) -> None:
    if found not in {None, *(script.revision for script in known.walk_revisions())}:
        raise BadInput(
            f"the database is at {found}, newer than this Palettery knows ({_newest(known)}): "
            "upgrade Palettery; refusing to start"
        )


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """One transaction, around which no other process migrates."""
    with connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield
