"""Rows of stored upload files, on every database that is claimed."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from app.errors import FileGone
from app.jobs.records import Records
from app.uploads import records as module
from app.uploads.records import FileRecords, StoredFile, keep
from schemas.jobs import Progress

numbers = itertools.count()
NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def files(database):
    return FileRecords(database)


def stored(letter, **how):
    return StoredFile(letter * 64, f"files/{letter}", 7, **how)


def add(database, letters, now=NOW, **how):
    job_id = f"01890a5d-ac96-774b-bcce-{next(numbers):012x}"
    kept = [stored(letter, **how) for letter in letters]
    return Records(database, lambda: now).add(job_id, "m", 1, Progress(), files=kept).id


def remove(database, job_id):
    records = Records(database)
    records.cancel(job_id)
    records.delete(job_id)


def test_find_tens_of_thousands(database, files):
    add(database, "ab")
    asked = [f"{number:064x}" for number in range(40_000)]
    assert files.find([*asked, "a" * 64]) == {"a" * 64: "files/a"}
    assert files.find([]) == {}


def test_unused_are_those_that_no_job_needs_since_before(database, files):
    first = add(database, "abc")
    add(database, "bd", now=NOW + MINUTE)
    third = add(database, "e", now=NOW + MINUTE)
    assert list(files.unused(NOW + 2 * MINUTE)) == []
    for job_id in (first, third):
        remove(database, job_id)
    assert list(files.unused(NOW)) == []
    assert list(files.unused(NOW + MINUTE)) == [stored("a"), stored("c")]
    assert list(files.unused(NOW + 2 * MINUTE)) == [stored("a"), stored("c"), stored("e")]


def test_paths_of_all_page_by_page(database, files, monkeypatch):
    monkeypatch.setattr(module, "PAGE", 2)
    for letters in ("", "ab", "c", "de", "f"):
        if letters:
            add(database, letters)
        seen = list(files.paths())
        assert seen == [f"files/{letter}" for letter in "abcdef"[: len(seen)]]
    assert len(seen) == 6


def test_forget_only_what_no_job_needs(database, files):
    job_id = add(database, "ab")
    assert not files.forget("a" * 64)
    remove(database, job_id)
    assert files.forget("a" * 64)
    assert not files.forget("a" * 64), "it is gone already"
    assert list(files.paths()) == ["files/b"]


def test_known_file_that_was_forgotten_is_noticed(database, files):
    remove(database, add(database, "a"))
    assert files.forget("a" * 64)
    with pytest.raises(FileGone):
        add(database, "a", is_known=True)
    assert Records(database).counts() == {}


def test_forget_and_add_at_once(database, files):
    """Whoever wins: a job's file has a row, and a forgotten file has no job."""
    for _ in range(20):
        remove(database, add(database, "a"))
        start = threading.Barrier(2)

        def forget(start=start):
            start.wait()
            return files.forget("a" * 64)

        def take(start=start):
            start.wait()
            try:
                return add(database, "a", is_known=True)
            except FileGone:
                return None

        with ThreadPoolExecutor(2) as pool:
            is_forgotten, taken = pool.submit(forget), pool.submit(take)
        assert is_forgotten.result() == (taken.result() is None)
        assert files.find(["a" * 64]) == ({} if is_forgotten.result() else {"a" * 64: "files/a"})
        if taken.result():
            remove(database, taken.result())
            assert files.forget("a" * 64)


def wait_until_blocked(database):
    """Until some statement of this database waits for a lock of another transaction."""
    blocked = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = datetime.now(UTC) + MINUTE
    while datetime.now(UTC) < deadline:
        with database.transaction() as session:
            if session.scalar(blocked):
                return
    raise AssertionError("nothing waits")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_forget_waits_for_the_job_that_takes_the_file(database, files):
    remove(database, add(database, "a"))
    job_id = add(database, "b")
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            keep(session, job_id, [stored("a", is_known=True)], NOW)
            is_forgotten = pool.submit(files.forget, "a" * 64)
            wait_until_blocked(database)
        assert not is_forgotten.result()
    assert files.find(["a" * 64]) == {"a" * 64: "files/a"}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("is_known", [True, False])
def test_job_waits_for_the_sweep_that_forgets_its_file(database, files, is_known):
    remove(database, add(database, "a"))
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            session.execute(text("DELETE FROM files"))
            added = pool.submit(add, database, "a", is_known=is_known)
            wait_until_blocked(database)
        if is_known:
            with pytest.raises(FileGone):
                added.result()
        else:
            added.result()
    assert files.find(["a" * 64]) == ({} if is_known else {"a" * 64: "files/a"})
