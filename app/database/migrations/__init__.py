"""Migration of a database's tables to the newest revision."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from palettery.app.database.engine import Database, translate_database_errors
from palettery.app.errors import BadInput

FIRST = "0001"
"""Revision of a database that has tables and no recorded revision."""
LOCK = 0x70616C6574746572
"""Number of the Postgres advisory lock for migrations: the letters "paletter"."""


@dataclass(frozen=True)
class MigrationResult:
    """Revisions of a database before and after a migration."""

    before: str | None
    after: str


def migrate(database: Database) -> MigrationResult:
    """Migrate a database to the newest revision in one transaction; other processes wait.

    Raises:
        BadInput: the database is newer than this code.
        DatabaseFailed: the database is unreachable, or was locked for too long.
    """
    config = _config()
    scripts = ScriptDirectory.from_config(config)
    with (
        translate_database_errors(),
        database.engine.connect() as connection,
        _exclusive_transaction(connection),
    ):
        config.attributes["connection"] = connection
        before = _revision(connection)
        _check_known(before, scripts)
        if before is None and inspect(connection).has_table("jobs"):
            command.stamp(config, FIRST)
            before = FIRST
        command.upgrade(config, "head")
        return MigrationResult(before, _newest(scripts))


def check_migrated(database: Database) -> None:
    """Check that a database is at the newest revision.

    Raises:
        BadInput: it is older or newer than this code.
        DatabaseFailed: the database is unreachable.
    """
    scripts = ScriptDirectory.from_config(_config())
    with translate_database_errors(), database.engine.connect() as connection:
        revision = _revision(connection)
    _check_known(revision, scripts)
    if revision != _newest(scripts):
        raise BadInput(
            f"the database is at {revision or 'no revision'}, and this Palettery needs "
            f"{_newest(scripts)}: run `palettery migrate`"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "palettery.app.database:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _newest(scripts: ScriptDirectory) -> str:
    newest = scripts.get_current_head()
    assert newest is not None  # noqa: S101 - part of this package
    return newest


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _check_known(revision: str | None, scripts: ScriptDirectory) -> None:
    if revision not in {None, *(script.revision for script in scripts.walk_revisions())}:
        raise BadInput(
            f"the database is at {revision}, newer than this Palettery ({_newest(scripts)}): "
            "upgrade Palettery"
        )


@contextmanager
def _exclusive_transaction(connection: Connection) -> Iterator[None]:
    """Open a transaction that excludes migrations by other processes."""
    with connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield
