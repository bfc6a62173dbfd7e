"""Rows of stored upload files, on every supported database."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from palettery.app.errors import FileGone
from palettery.app.files import repository as module
from palettery.app.files.repository import FileLocation, FileRepository, add_job_files
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.schemas.jobs import Progress
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)

numbers = itertools.count()
NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def files(database):
    return FileRepository(database)


def new_id():
    return f"01890a5d-ac96-774b-bcce-{next(numbers):012x}"


def stored(letter, **how):
    return FileLocation(letter * 64, f"files/{letter}", 7, **how)


def add(database, letters, now=NOW, **how):
    locations = [stored(letter, **how) for letter in letters]
    return (
        JobRepository(database, lambda: now)
        .add(NewJob(new_id(), "m", 1, Progress()), files=locations)
        .id
    )


def remove(database, job_id):
    records = JobRepository(database)
    records.cancel(job_id)
    records.delete(job_id)


def test_files_are_kept_once(database, files):
    locations = [stored("b"), stored("a"), stored("a")]
    records = JobRepository(database)
    records.add(NewJob(new_id(), "m", 1, Progress()), files=locations)
    records.add(
        NewJob(new_id(), "m", 1, Progress()), files=[stored("a", has_row=True), stored("c")]
    )
    assert files.find([letter * 64 for letter in "abcd"]) == {
        letter * 64: f"files/{letter}" for letter in "abc"
    }


@pytest.mark.parametrize(
    "planned",
    [
        FileLocation("a" * 64, "files/other", 7),
        FileLocation("a" * 64, "files/other", 7, has_row=True),
        FileLocation("c" * 64, "files/c", 7, has_row=True),
    ],
    ids=["kept elsewhere", "moved", "removed"],
)
def test_job_whose_files_lie_elsewhere_is_not_added(database, files, planned):
    records = JobRepository(database)
    job_id = add(database, "a")
    with pytest.raises(FileGone, match="removed or replaced"):
        records.add(NewJob(new_id(), "m", 1, Progress()), files=[stored("b"), planned])
    assert [job.id for job in records.active()] == [job_id]
    assert list(files.paths()) == ["files/a"]


def test_threads_that_add_jobs_with_the_same_new_files(database, files):
    """Each writes the bytes to paths of its own; all but one use the winner's paths."""
    records = JobRepository(database)
    start = threading.Barrier(4)

    def submit(number, digests):
        ordered = digests if number % 2 else digests[::-1]
        new = [FileLocation(digest, f"files/{number}/{digest}", 7) for digest in ordered]
        start.wait()
        try:
            return records.add(NewJob(new_id(), "m", 1, Progress()), files=new).id
        except FileGone:
            paths = files.find(digests)
            existing = [FileLocation(digest, paths[digest], 7, has_row=True) for digest in ordered]
            return records.add(NewJob(new_id(), "m", 1, Progress()), files=existing).id

    with ThreadPoolExecutor(4) as pool:
        for turn in range(10):
            digests = [f"{turn:032x}{number:032x}" for number in range(200)]
            ids = set(pool.map(submit, range(4), [digests] * 4))
            assert ids <= {job.id for job in records.active()}
            assert files.find(digests).keys() == set(digests)
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM job_files")) == 10 * 4 * 200


def test_find_tens_of_thousands(database, files):
    add(database, "ab")
    digests = [f"{number:064x}" for number in range(40_000)]
    assert files.find([*digests, "a" * 64]) == {"a" * 64: "files/a"}
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
    monkeypatch.setattr(module, "PAGE_ROWS", 2)
    for letters in ("", "ab", "c", "de", "f"):
        if letters:
            add(database, letters)
        seen = list(files.paths())
        assert seen == [f"files/{letter}" for letter in "abcdef"[: len(seen)]]
    assert len(seen) == 6


def test_delete_only_what_no_job_uses(database, files):
    job_id = add(database, "ab")
    assert not files.delete_if_unused("a" * 64)
    remove(database, job_id)
    assert files.delete_if_unused("a" * 64)
    assert not files.delete_if_unused("a" * 64), "it is gone already"
    assert list(files.paths()) == ["files/b"]


def test_known_file_that_was_forgotten_is_noticed(database, files):
    remove(database, add(database, "a"))
    assert files.delete_if_unused("a" * 64)
    with pytest.raises(FileGone):
        add(database, "a", has_row=True)
    assert JobRepository(database).counts() == {}


def test_delete_and_add_at_once(database, files):
    """Whoever wins: a job's file has a row, and a forgotten file has no job."""
    for _ in range(20):
        remove(database, add(database, "a"))
        start = threading.Barrier(2)

        def delete(start=start):
            start.wait()
            return files.delete_if_unused("a" * 64)

        def take(start=start):
            start.wait()
            try:
                return add(database, "a", has_row=True)
            except FileGone:
                return None

        with ThreadPoolExecutor(2) as pool:
            is_deleted, taken = pool.submit(delete), pool.submit(take)
        assert is_deleted.result() == (taken.result() is None)
        assert files.find(["a" * 64]) == ({} if is_deleted.result() else {"a" * 64: "files/a"})
        if taken.result():
            remove(database, taken.result())
            assert files.delete_if_unused("a" * 64)


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


@pytest.mark.databases("postgresql")
def test_deletion_waits_for_the_job_that_takes_the_file(database, files):
    remove(database, add(database, "a"))
    job_id = add(database, "b")
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            add_job_files(session, job_id, [stored("a", has_row=True)], NOW)
            is_deleted = pool.submit(files.delete_if_unused, "a" * 64)
            wait_until_blocked(database)
        assert not is_deleted.result()
    assert files.find(["a" * 64]) == {"a" * 64: "files/a"}


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("has_row", [True, False])
def test_job_waits_for_the_deletion_of_its_file(database, files, has_row):
    remove(database, add(database, "a"))
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            session.execute(text("DELETE FROM files"))
            added = pool.submit(add, database, "a", has_row=has_row)
            wait_until_blocked(database)
        if has_row:
            with pytest.raises(FileGone):
                added.result()
        else:
            added.result()
    assert files.find(["a" * 64]) == ({} if has_row else {"a" * 64: "files/a"})
