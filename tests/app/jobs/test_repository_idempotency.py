"""One job per key and owner, however many ask at once, on every database that is claimed."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from palettery.app.errors import IdempotencyConflict
from palettery.app.files.repository import FileLocation, FileRepository
from palettery.app.http.idempotency import KeyTaken, keyed_request
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.schemas.jobs import Progress
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)

numbers = itertools.count()
AT_ONCE = 8


@pytest.fixture
def records(database):
    return JobRepository(database)


def new_job(**chosen):
    return NewJob(f"01890a5d-ac96-774b-bcce-{next(numbers):012x}", "m", 1, Progress(), **chosen)


def test_key_finds_the_job_that_was_queued_under_it(records):
    job = records.add(new_job(request=keyed_request("k", 1)))
    records.add(new_job(request=keyed_request("K", 1)))
    assert records.find_keyed("local", keyed_request("k", 1)) == job
    assert records.find_keyed("local", keyed_request("other", 1)) is None


def test_key_with_another_request_is_a_conflict(records):
    records.add(new_job(request=keyed_request("k", 1)))
    with pytest.raises(IdempotencyConflict):
        records.find_keyed("local", keyed_request("k", 2))


def test_second_job_under_a_key_leaves_nothing(records, database):
    records.add(new_job(request=keyed_request("k", 1)))
    files = [FileLocation("a" * 64, "files/a", 7)]
    with pytest.raises(KeyTaken):
        records.add(new_job(request=keyed_request("k", 2)), files)
    assert records.counts() == {"queued": 1}
    assert list(FileRepository(database).paths()) == []


def test_owners_and_jobs_without_a_key_do_not_meet(records):
    for owner in ("a", "b"):
        records.add(new_job(owner=owner, request=keyed_request("k", 1)))
        for _ in range(2):
            records.add(new_job(owner=owner))
    assert records.counts() == {"queued": 6}
    assert records.find_keyed("a", keyed_request("k", 1)) != records.find_keyed(
        "b", keyed_request("k", 1)
    )


def test_job_that_was_deleted_frees_its_key(records):
    job = records.add(new_job(request=keyed_request("k", 1)))
    records.cancel(job.id)
    records.delete(job.id)
    assert records.find_keyed("local", keyed_request("k", 1)) is None
    records.add(new_job(request=keyed_request("k", 2)))


def test_of_many_at_once_one_is_queued(records):
    enqueued, together = [], Barrier(AT_ONCE)

    def ask(_):
        together.wait()
        try:
            return records.add(
                new_job(request=keyed_request("k", 1)), (), lambda *to: enqueued.append(to)
            )
        except KeyTaken:
            return records.find_keyed("local", keyed_request("k", 1))

    with ThreadPoolExecutor(AT_ONCE) as senders:
        ids = {job.id for job in senders.map(ask, range(AT_ONCE))}
    assert len(ids) == 1
    assert records.counts() == {"queued": 1}
    assert len(enqueued) == 1
