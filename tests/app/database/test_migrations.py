"""Migrations: they match the models, keep the rows, and reject unknown revisions."""

import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from palettery.app.database import migrations
from palettery.app.database.engine import Base, open_database
from palettery.app.database.migrations import MigrationResult, check_migrated, migrate
from palettery.app.errors import BadInput, DatabaseFailed
from palettery.app.jobs.repository import JobRepository
from palettery.schemas.jobs import Progress
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)

NEWEST = "0012"
JOB_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
MADE_AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)

FIRST = sa.MetaData()
"""Tables as the version made them that did not keep count of revisions."""
FIRST_JOBS = sa.Table(
    "jobs",
    FIRST,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("state", sa.String(16), index=True, nullable=False),
    sa.Column("model_name", sa.String(1024), nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("started_at", sa.DateTime(timezone=True)),
    sa.Column("ended_at", sa.DateTime(timezone=True)),
    sa.Column("tensors_done", sa.Integer, nullable=False),
    sa.Column("tensors_total", sa.Integer, nullable=False),
    sa.Column("bytes_done", sa.BigInteger, nullable=False),
    sa.Column("bytes_total", sa.BigInteger, nullable=False),
    sa.Column("size_before_bytes", sa.BigInteger, nullable=False),
    sa.Column("size_after_bytes", sa.BigInteger),
    sa.Column("error", sa.JSON),
)


@pytest.fixture
def empty(database_url):
    made = open_database(database_url)
    yield made
    made.close()


@pytest.fixture
def first(empty):
    """A database of the first version, with a job in it."""
    FIRST.create_all(empty.engine)
    row = {
        "id": JOB_ID,
        "state": "succeeded",
        "model_name": "größe.safetensors",
        "created_at": MADE_AT,
        "tensors_done": 2,
        "tensors_total": 3,
        "bytes_done": 1 << 40,
        "bytes_total": 1 << 41,
        "size_before_bytes": 1 << 42,
        "size_after_bytes": 7,
    }
    with empty.engine.begin() as connection:
        connection.execute(FIRST_JOBS.insert(), row)
    return empty


def upgrade(database, revision):
    config = migrations._config()
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def set_revision(database, revision):
    with database.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision}
        )


def shape(database):
    """Everything that a table called jobs has, as the database tells it."""
    seen = sa.inspect(database.engine)
    columns = [{**column, "type": repr(column["type"])} for column in seen.get_columns("jobs")]
    return columns, seen.get_pk_constraint("jobs"), seen.get_indexes("jobs")


def assert_job_is_kept(database):
    job = JobRepository(database).get(JOB_ID)
    done = Progress(tensors_done=2, tensors_total=3, bytes_done=1 << 40, bytes_total=1 << 41)
    assert (job.state, job.model_name, job.progress) == ("succeeded", "größe.safetensors", done)
    assert (job.created_at, job.started_at, job.size_after_bytes) == (MADE_AT, None, 7)
    assert (job.priority, job.attempt, job.deadline_at, job.expires_at) == (5, 0, None, None)
    assert job.reuse


def test_models_and_migrations_agree(empty):
    assert migrate(empty) == MigrationResult(None, NEWEST)
    with empty.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    assert {
        "jobs",
        "files",
        "job_files",
        "results",
        "controllers",
        "job_changes",
    } <= Base.metadata.tables.keys()


def test_first_revision_is_what_the_first_version_made(first):
    expected = shape(first)
    with first.engine.begin() as connection:
        FIRST.drop_all(connection)
    upgrade(first, "0001")
    assert shape(first) == expected


def test_database_without_revision_is_adopted_with_its_rows(first):
    assert migrate(first) == MigrationResult("0001", NEWEST)
    assert_job_is_kept(first)
    assert migrate(first) == MigrationResult(NEWEST, NEWEST)
    assert_job_is_kept(first)


def test_database_at_the_first_revision_keeps_its_rows(first):
    config = migrations._config()
    with first.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.stamp(config, "0001")
    assert migrate(first) == MigrationResult("0001", NEWEST)
    assert_job_is_kept(first)


def test_migration_that_fails_leaves_the_database_as_it_was(first):
    with first.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE results (mine INTEGER)"))
    before = shape(first)
    with pytest.raises((DatabaseFailed, sa.exc.ProgrammingError), match="results"):
        migrate(first)
    assert shape(first) == before
    assert set(sa.inspect(first.engine).get_table_names()) == {"jobs", "results"}


@pytest.mark.heavy
def test_processes_that_migrate_at_once(database_url):
    environment = os.environ | {"PALETTERY_DATABASE_URL": database_url}
    code = (
        "from palettery.app.cli.main import main; import sys;"
        "sys.argv = ['palettery', 'migrate']; main()"
    )
    command = [sys.executable, "-c", code]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = sorted(process.communicate(timeout=900)[0].strip() for process in running)
    assert outputs == [f"{NEWEST} -> {NEWEST}", f"empty -> {NEWEST}"]
    assert [process.returncode for process in running] == [0] * 2


def test_check_passes_what_is_migrated(empty):
    migrate(empty)
    check_migrated(empty)


def test_check_refuses_what_is_not_migrated_and_changes_nothing(empty):
    with pytest.raises(BadInput, match=rf"at no revision.*needs {NEWEST}: run `palettery migrate`"):
        check_migrated(empty)
    assert sa.inspect(empty.engine).get_table_names() == []
    upgrade(empty, "0001")
    with pytest.raises(BadInput, match=rf"at 0001.*needs {NEWEST}: run `palettery migrate`"):
        check_migrated(empty)


def test_newer_database_is_refused(empty):
    migrate(empty)
    set_revision(empty, "0999")
    for ask in (check_migrated, migrate):
        with pytest.raises(BadInput, match=rf"0999, newer than .* \({NEWEST}\): upgrade Palettery"):
            ask(empty)


def test_migrate_command(palettery, database_url, monkeypatch, tmp_path):
    monkeypatch.setenv("PALETTERY_DATABASE_URL", database_url)
    assert palettery("migrate", "--data-dir", tmp_path / "data") == (0, f"empty -> {NEWEST}\n", "")
    assert palettery("migrate", "--data-dir", tmp_path / "data") == (
        0,
        f"{NEWEST} -> {NEWEST}\n",
        "",
    )
    database = open_database(database_url)
    set_revision(database, "0999")
    database.close()
    code, out, stderr = palettery("migrate", "--data-dir", tmp_path / "data")
    assert (code, out) == (2, "")
    assert stderr == (
        f"palettery: the database is at 0999, newer than this Palettery ({NEWEST}): "
        "upgrade Palettery\n"
    )


def test_migrate_command_makes_the_embedded_database(palettery, monkeypatch, tmp_path):
    monkeypatch.delenv("PALETTERY_DATABASE_URL", raising=False)
    assert palettery("migrate", "--data-dir", tmp_path / "new") == (0, f"empty -> {NEWEST}\n", "")
    assert (tmp_path / "new" / "palettery.db").is_file()
