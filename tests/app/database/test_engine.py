"""Transactions and errors on every supported database."""

import re
import shutil
import socket
import sqlite3
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, StatementError

from palettery.app.database import engine as module
from palettery.app.database.engine import MAX_IN_LIST, chunks, open_database, utc_now
from palettery.app.database.migrations import migrate
from palettery.app.database.tables import FileRow, JobFileRow
from palettery.app.errors import BadInput, DatabaseFailed
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.schemas.jobs import Progress
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)

DIGEST = "ab" * 32


def file(created_at, sha256=DIGEST):
    return FileRow(sha256=sha256, path="files/1", size_bytes=1 << 40, created_at=created_at)


def run(database, *statements):
    """Each of these, in one transaction."""
    with database.transaction() as session:
        for statement in statements:
            session.execute(text(statement))


@pytest.fixture
def silent():
    """A port where connections are taken, and nobody ever says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def test_what_is_written_reads_back(database):
    now = utc_now()
    with database.transaction() as session:
        session.add(file(now))
    with database.transaction() as session:
        row = session.get(FileRow, DIGEST)
        assert (row.path, row.size_bytes, row.created_at) == ("files/1", 1 << 40, now)
    assert database.health_problem() is None


def test_times_come_back_in_utc(database):
    written = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=5)))
    with database.transaction() as session:
        session.add(file(written))
    with database.transaction() as session:
        read = session.get(FileRow, DIGEST).created_at
    assert read == written
    assert read.tzinfo == UTC


def test_times_without_a_zone_are_refused(database):
    with pytest.raises(StatementError, match="has no time zone"), database.transaction() as session:
        session.add(file(datetime(2026, 3, 1)))


def test_a_block_that_fails_leaves_nothing(database):
    def write():
        with database.transaction() as session:
            session.add(file(utc_now()))
            session.flush()
            raise LookupError

    with pytest.raises(LookupError):
        write()
    with database.transaction() as session:
        assert session.get(FileRow, DIGEST) is None


def test_references_are_enforced_and_their_breach_is_no_failure_of_the_database(database):
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.add(JobFileRow(job_id="nobody", sha256=DIGEST))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("palettery.db", "is malformed"),
        ("postgresql://host:port/name", "is malformed"),
        ("mysql://host/name", "'mysql'; use sqlite or postgresql"),
        ("sqlite:////ws/team?1", "write %3F"),
        ("sqlite:////ws/team?mode=ro", "write %3F"),
        ("sqlite:////ws/team?", "write %3F"),
        ("sqlite+aiosqlite:///palettery.db", "'sqlite.aiosqlite'; use sqlite or postgresql"),
    ],
)
def test_other_databases_are_refused(url, message):
    with pytest.raises(BadInput, match=message):
        open_database(url)


def assert_away(database):
    assert database.health_problem()
    with pytest.raises(DatabaseFailed, match="the database failed") as caught:
        run(database, "SELECT 1")
    assert caught.value.__cause__ is not None
    database.close()


def test_sqlite_file_that_cannot_be_opened(tmp_path):
    assert_away(open_database(f"sqlite:///{tmp_path / 'missing' / 'palettery.db'}"))


def test_postgres_that_is_not_there():
    assert_away(open_database(f"postgresql://palettery@127.0.0.1:{closed_port()}/postgres"))


@pytest.mark.heavy
def test_postgres_that_is_silent_is_given_up(silent):
    assert_away(open_database(f"postgresql://palettery@127.0.0.1:{silent}/postgres"))


@pytest.mark.heavy
def test_password_is_not_told(silent):
    url = f"postgresql://palettery:hunter2@127.0.0.1:{silent}/postgres?connect_timeout=2"
    database = open_database(url)
    with pytest.raises(DatabaseFailed) as caught:
        run(database, "SELECT 1")
    assert "hunter2" not in caught.value.detail


def test_locked_sqlite_is_a_failure_that_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WRITE_LOCK_TIMEOUT_S", 0.1)
    database = open_database(f"sqlite:///{tmp_path / 'palettery.db'}")
    run(database, "CREATE TABLE noted (number INTEGER)")
    with database.transaction() as first:
        first.execute(text("INSERT INTO noted VALUES (1)"))
        with pytest.raises(DatabaseFailed, match="locked"):
            run(database, "PRAGMA busy_timeout=0", "INSERT INTO noted VALUES (2)")
    with database.transaction() as session:
        assert session.scalars(text("SELECT number FROM noted")).all() == [1]
    database.close()


@pytest.mark.databases("postgresql")
def test_connections_that_postgres_dropped_are_replaced(database):
    end_others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    def be_cut_off():
        with database.transaction() as session:
            session.execute(text("SELECT 1"))
            run(database, end_others)
            session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseFailed):
        be_cut_off()
    with database.transaction() as first, database.transaction() as second:
        assert first.scalar(text("SELECT 1")) == second.scalar(text("SELECT 1")) == 1
    run(database, end_others)  # of two that lie idle, the one is dropped
    with database.transaction() as first, database.transaction() as second:
        assert first.scalar(text("SELECT 1")) == second.scalar(text("SELECT 1")) == 1


def test_long_lists_are_cut_and_repeats_left_out():
    values = [str(number) for number in range(MAX_IN_LIST + 1)]
    assert [len(chunk) for chunk in chunks([*values, "0"])] == [MAX_IN_LIST, 1]
    assert list(chunks([])) == []


@pytest.fixture(scope="module")
def many_jobs(tmp_path_factory):
    """The file of a sound database of many jobs."""
    path = tmp_path_factory.mktemp("sound") / "palettery.db"
    database = open_database(f"sqlite:///{path}")
    migrate(database)
    records = JobRepository(database)
    for number in range(300):
        records.add(NewJob(f"01890a5d-ac96-774b-bcce-{number:012x}", "m" * 500, 1, Progress()))
    database.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


@pytest.fixture
def damaged(tmp_path, many_jobs):
    """A function: a copy of that database, of which a page is overwritten."""
    path = tmp_path / "palettery.db"

    def make(find):
        shutil.copyfile(many_jobs, path)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            size = connection.execute("PRAGMA page_size").fetchone()[0]
            page = find(connection)
        connection.close()
        with path.open("r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)
        return open_database(f"sqlite:///{path}")

    return make


def root_of(name):
    return lambda connection: connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = ?", [name]
    ).fetchone()[0]


@pytest.mark.parametrize("name", ["jobs", "uploads", "sqlite_autoindex_jobs_1", "keys", "configs"])
def test_damaged_table_is_told_before_any_request_meets_it(damaged, name):
    database = damaged(root_of(name))
    assert re.search("malformed", database.health_problem())
    database.close()


def test_damage_that_a_request_meets_is_told_from_then_on(damaged, caplog):
    """In the middle of a table, where nobody looks by the way."""

    def middle(connection):
        pages = (
            "SELECT pageno FROM dbstat WHERE name = 'jobs' AND pagetype = 'leaf' ORDER BY pageno"
        )
        try:
            results = [page for (page,) in connection.execute(pages)]
        except sqlite3.OperationalError:  # without dbstat
            results = [root_of("jobs")(connection) + 40]
        return results[len(results) // 2]

    database = damaged(middle)
    assert database.health_problem() is None
    with pytest.raises(DatabaseFailed, match="malformed"):
        JobRepository(database).page(1_000, None)
    assert re.search("it is damaged: .*malformed", database.health_problem())
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    database.close()
    again = open_database(database.engine.url.render_as_string())
    assert again.health_problem() is None
    again.check_integrity()
    assert re.search("it is damaged", again.health_problem())
    again.close()


def test_sound_database_is_sound_everywhere(database):
    database.check_integrity()
    assert database.health_problem() is None


def test_file_that_is_no_database(tmp_path):
    (tmp_path / "palettery.db").write_bytes(b"no database" * 1_000)
    database = open_database(f"sqlite:///{tmp_path / 'palettery.db'}")
    assert database.health_problem()
    database.close()
