"""Roles: missing settings, and databases of another version."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from palettery.app.database import migrations
from palettery.app.database.engine import open_database
from palettery.app.database.migrations import MigrationResult
from palettery.app.errors import BadInput
from palettery.app.roles import role as roles
from palettery.app.roles.role import check_role_settings
from palettery.app.settings import Settings
from tests.databases import KINDS

NEWEST = max(Path(migrations.__file__).parent.glob("versions/0*.py")).name[:4]
pytestmark = pytest.mark.databases(*KINDS)

SHARED = {
    "database_url": "postgresql://h/d",
    "storage_url": "s3://b/p",
    "scheduler_url": "tcp://s:1",
}


def test_all_in_one_process_needs_nothing():
    check_role_settings(Settings(), "all")
    check_role_settings(Settings(database_url="sqlite:////tmp/x.db"), "all")


def test_roles_with_what_they_need():
    check_role_settings(Settings(**SHARED), "controller")
    check_role_settings(Settings(**SHARED | {"scheduler_url": None}), "api")


@pytest.mark.parametrize(
    ("role", "missing"),
    [
        ("api", "database_url"),
        ("api", "storage_url"),
        ("controller", "database_url"),
        ("controller", "storage_url"),
        ("controller", "scheduler_url"),
    ],
)
def test_what_is_missing_is_named(role, missing):
    with pytest.raises(BadInput) as error:
        check_role_settings(Settings(**SHARED | {missing: None}), role)
    expected = f"--role {role} works together with other processes; set PALETTERY_{missing.upper()}"
    assert error.value.detail == expected


@pytest.mark.parametrize("role", ["api", "controller"])
def test_sqlite_cannot_be_shared(role):
    with pytest.raises(
        BadInput, match=f"^--role {role} needs Postgres, but PALETTERY_DATABASE_URL"
    ):
        check_role_settings(Settings(**SHARED | {"database_url": "sqlite:////tmp/x.db"}), role)


@pytest.mark.parametrize("role", ["api", "controller"])
def test_serve_tells_what_is_missing_in_one_line(palettery, monkeypatch, tmp_path, role):
    monkeypatch.setenv("PALETTERY_DATABASE_URL", "postgresql://127.0.0.1:9/d")
    monkeypatch.delenv("PALETTERY_STORAGE_URL", raising=False)
    code, out, stderr = palettery("serve", "--role", role, "--data-dir", tmp_path / "data")
    assert (code, out) == (2, "")
    assert stderr == (
        f"palettery: --role {role} works together with other processes; set PALETTERY_STORAGE_URL\n"
    )


def test_migration_makes_the_tables_of_the_engine_beside_ours(database_url):
    database = open_database(database_url)
    assert roles.migrate(database) == MigrationResult(None, NEWEST)
    seen = sa.inspect(database.engine)
    schema = "dbos" if database.engine.dialect.name == "postgresql" else None
    assert "workflow_status" in seen.get_table_names(schema)
    assert {"jobs", "files", "results", "controllers"} <= set(seen.get_table_names())
    assert roles.migrate(database) == MigrationResult(NEWEST, NEWEST)
    database.close()


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("0999", f"0999, newer than this Palettery ({NEWEST}): upgrade Palettery"),
        ("0001", f"0001, and this Palettery needs {NEWEST}: run `palettery migrate`"),
        (None, f"no revision, and this Palettery needs {NEWEST}: run `palettery migrate`"),
    ],
)
def test_api_refuses_a_database_of_another_version(
    palettery, monkeypatch, database_url, tmp_path, revision, message
):
    database = open_database(database_url)
    if revision is not None:
        with database.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
            connection.execute(
                sa.text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": revision}
            )
    monkeypatch.setenv("PALETTERY_DATABASE_URL", database_url)
    monkeypatch.setenv("PALETTERY_STORAGE_URL", (tmp_path / "store").as_uri())
    code, out, err = palettery("serve", "--role", "api")
    assert (code, out) == (2, "")
    assert err == f"palettery: the database is at {message}\n"
    result = sa.inspect(database.engine).get_table_names()
    assert result == ([] if revision is None else ["alembic_version"]), "nothing was changed"
    database.close()
