"""A fresh database of each kind that is claimed."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from palettery.app.database.engine import Database, open_database
from palettery.app.database.migrations import migrate

KINDS = ["sqlite", "postgresql"]
"""For `databases` marks: tests of SQL that run on each."""
KINDS_IN_HEAVY = ["sqlite", pytest.param("postgresql", marks=pytest.mark.heavy)]
"""For tests of more than SQL: the statements are tested on each kind beside."""


def migrate_whole(database: Database) -> None:
    """Migrate the engine's tables, too; its import takes seconds, which few tests need."""
    from palettery.app.roles import role

    role.migrate(database)


MIGRATED: dict[str, Callable[[Database], object]] = {
    "whole_database": migrate_whole,
    "database": migrate,
}
"""Fixture -> how what it gives is made of an empty database: once, to be copied from then on."""


class Databases:
    """Databases of one kind, on one server or in one folder."""

    def __init__(self, folder: Path, server_url: str | None) -> None:
        self._folder, self._server_url = folder, server_url
        self._made: dict[str, str] = {}

    @contextmanager
    def fresh(self, fixture: str | None) -> Iterator[str]:
        """URL of a database that nobody else uses: empty, or what a fixture needs."""
        if fixture is not None and fixture not in self._made:
            url = self._create(f"made_{fixture}", None)
            database = open_database(url)
            MIGRATED[fixture](database)
            database.close()
            self._made[fixture] = url
        url = self._create(f"test_{uuid.uuid4().hex}", self._made.get(fixture or ""))
        yield url
        if self._server_url is not None:
            self._tell(f"DROP DATABASE {make_url(url).database}")

    def _create(self, name: str, like: str | None) -> str:
        if self._server_url is None:
            path = self._folder / f"{name}.db"
            if like is not None:
                shutil.copyfile(make_url(like).database or "", path)
            return f"sqlite:///{path}"
        template = f"TEMPLATE {make_url(like).database}" if like is not None else ""
        self._tell(f"CREATE DATABASE {name} STRATEGY FILE_COPY {template}")
        return make_url(self._server_url).set(database=name).render_as_string(hide_password=False)

    def _tell(self, statement: str) -> None:
        assert self._server_url is not None
        url = make_url(self._server_url).set(drivername="postgresql+psycopg")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()


@pytest.fixture(scope="session")
def databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Databases]:
    """Databases of a kind."""
    known: dict[str, Databases] = {}

    def of(kind: str) -> Databases:
        if kind not in known:
            server = request.getfixturevalue("postgres").url if kind == "postgresql" else None
            known[kind] = Databases(tmp_path_factory.mktemp("databases"), server)
        return known[kind]

    return of
