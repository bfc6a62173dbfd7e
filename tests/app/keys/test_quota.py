"""Limits of owners, also with concurrent requests, on every supported database."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from palettery.app.database.tables import UploadRow
from palettery.app.errors import OverQuota
from palettery.app.files.repository import FileLocation
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.app.keys.quota import usage, within_limits
from palettery.schemas.jobs import Progress
from palettery.schemas.keys import OwnerLimits, Usage
from tests.databases import KINDS_IN_HEAVY

pytestmark = pytest.mark.databases(*KINDS_IN_HEAVY)

numbers = itertools.count()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
BURST = 24
THREADS = 8


def new_id():
    return f"01890a5d-ac96-774b-bcce-{next(numbers):012x}"


def file_of(letter, size_bytes):
    return FileLocation(letter * 64, f"uploads/{letter}", size_bytes)


@pytest.fixture
def records(database):
    return JobRepository(database)


def add(records, owner="a", files=(), stores=0, **limits):
    allowed = OwnerLimits(**limits)
    new = NewJob(new_id(), "m", 1, Progress(), owner=owner, limits=allowed, stored_bytes=stores)
    return records.add(new, files).id


def upload(database, owner, missing_bytes, **limits):
    row = UploadRow(
        id=new_id(),
        owner=owner,
        files="[]",
        size_bytes=1 << 40,
        missing_bytes=missing_bytes,
        part_size_bytes=1,
        created_at=NOW,
        expires_at=NOW + timedelta(days=1),
    )
    with (
        database.transaction() as session,
        within_limits(session, owner, OwnerLimits(**limits)),
    ):
        session.add(row)
    return row.id


def used(database, owner="a"):
    with database.transaction() as session:
        return usage(session, owner)


def outcomes(tries):
    """How many of these got through, tried all at once."""

    def tried(one):
        try:
            one()
        except OverQuota:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(tried, tries))


def test_what_is_counted(records, database):
    assert used(database) == Usage(queued_jobs=0, stored_bytes=0)
    first = add(records, files=[file_of("1", 100), file_of("2", 20)])
    again = add(records, files=[file_of("1", 100), file_of("3", 3)])
    assert used(database) == Usage(queued_jobs=2, stored_bytes=123), "each file once"
    records.start(first)
    assert used(database).queued_jobs == 2
    records.succeed(first, 1 << 40)
    records.cancel(again)
    assert used(database) == Usage(queued_jobs=0, stored_bytes=123 + (1 << 40))
    upload(database, "a", 7)
    upload(database, "b", 1)
    add(records, owner="b", files=[file_of("1", 100)])
    assert used(database).stored_bytes == 130 + (1 << 40)
    assert used(database, "b") == Usage(queued_jobs=1, stored_bytes=101), "shared bytes count, too"
    records.delete(first)
    assert used(database).stored_bytes == 110


def test_a_job_counts_with_what_is_expected_until_it_has_succeeded(records, database):
    first, second = add(records, stores=10), add(records, stores=20)
    assert used(database).stored_bytes == 30
    with pytest.raises(OverQuota, match=r"would have 41 stored bytes; 40 are allowed"):
        add(records, stores=11, stored_bytes=40)
    for job_id in (first, second):
        records.start(job_id)
    records.succeed(first, 3, stored_bytes=8)
    records.cancel(second)
    assert used(database).stored_bytes == 28, "what was cancelled has parts"
    records.delete(second)
    assert used(database).stored_bytes == 8


def test_jobs_up_to_the_limit_and_none_beyond(records, database):
    kept = [add(records, queued_jobs=2) for _ in range(2)]
    with pytest.raises(OverQuota, match=r"would have 3 jobs that have not ended; 2 are allowed"):
        add(records, queued_jobs=2)
    assert used(database).queued_jobs == 2
    add(records, owner="b", queued_jobs=1)
    records.cancel(kept[0])
    add(records, queued_jobs=2)


def test_bytes_up_to_the_limit_and_none_beyond(records, database):
    add(records, files=[file_of("1", 60)], stored_bytes=100)
    add(records, files=[file_of("1", 60)], stored_bytes=100)
    with pytest.raises(OverQuota, match=r"would have 101 stored bytes; 100 are allowed"):
        add(records, files=[file_of("2", 41)], stored_bytes=100)
    upload(database, "a", 40, stored_bytes=100)
    with pytest.raises(OverQuota):
        upload(database, "a", 1, stored_bytes=100)
    assert used(database) == Usage(queued_jobs=2, stored_bytes=100)


def test_retry_counts_as_a_job(records):
    limits = OwnerLimits(queued_jobs=1)
    first = add(records)
    records.cancel(first)
    second = add(records, queued_jobs=1)
    with pytest.raises(OverQuota):
        records.retry(first, limits=limits)
    assert records.get(first).state == "cancelled"
    records.cancel(second)
    records.retry(first, limits=limits)
    assert records.get(first).state == "queued"


def test_room_is_looked_for_beforehand(records):
    add(records, files=[file_of("1", 60)])
    records.check_room("a", OwnerLimits(queued_jobs=2, stored_bytes=61))
    for limits in ({"queued_jobs": 1}, {"stored_bytes": 60}):
        with pytest.raises(OverQuota):
            records.check_room("a", OwnerLimits(**limits))


def test_of_many_jobs_at_once_only_as_many_as_may_get_through(records, database):
    tries = [
        *(lambda: add(records, owner="a", queued_jobs=5) for _ in range(BURST)),
        *(lambda: add(records, owner="b", queued_jobs=3) for _ in range(BURST)),
    ]
    assert outcomes(tries) == 8
    assert [used(database, owner).queued_jobs for owner in "ab"] == [5, 3]


def test_of_many_bytes_at_once_only_as_many_as_may_get_through(records, database):
    letters = "0123456789abcdef"
    tries = [
        *(
            lambda letter=letter: add(records, files=[file_of(letter, 10)], stored_bytes=105)
            for letter in letters
        ),
        *(lambda: upload(database, "a", 10, stored_bytes=105) for _ in letters),
    ]
    assert outcomes(tries) == 10
    assert used(database).stored_bytes == 100


def test_retries_at_once(records, database):
    cancelled = [add(records) for _ in range(BURST)]
    for job_id in cancelled:
        records.cancel(job_id)
    limits = OwnerLimits(queued_jobs=4)
    tries = [lambda job_id=job_id: records.retry(job_id, limits=limits) for job_id in cancelled]
    assert outcomes(tries) == 4
    assert used(database).queued_jobs == 4
