"""Rows of jobs, on every database that is claimed."""

import itertools
from datetime import UTC, datetime

import pytest
from sqlalchemy import create_engine, make_url, text

from app.errors import NotFound, StorageFull, problem
from app.jobs.records import Records
from schemas.jobs import Progress

numbers = itertools.count()
WORK = Progress(tensors_total=3, bytes_total=1 << 40)
WHY = problem(StorageFull("the store is full"))


def new_id():
    return f"01890a5d-ac96-774b-bcce-{next(numbers):012x}"


@pytest.fixture(params=["sqlite", "postgresql"])
def records(request, tmp_path):
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'jobs.db'}"
    else:
        url = request.getfixturevalue("postgres").url
        address = make_url(url).set(drivername="postgresql+psycopg")
        engine = create_engine(address)
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE IF EXISTS jobs"))
        engine.dispose()
    made = Records(url)
    yield made
    made.close()


def add(records):
    return records.add(new_id(), "m.safetensors", 1 << 40, WORK).id


def test_new_job_is_queued_and_reads_back_as_it_was_made(records):
    job = records.add(new_id(), "größe.safetensors", 1 << 40, WORK)
    assert (job.state, job.progress, job.size_before_bytes) == ("queued", WORK, 1 << 40)
    assert job.created_at.tzinfo == UTC
    assert abs((datetime.now(UTC) - job.created_at).total_seconds()) < 60
    assert records.get(job.id) == job


def test_life_of_a_job_that_succeeds(records):
    job_id = add(records)
    assert records.start(job_id)
    assert records.start(job_id), "a recovered job goes on"
    done = Progress(tensors_done=3, tensors_total=3, bytes_done=1 << 40, bytes_total=1 << 40)
    records.advance(job_id, done)
    assert records.succeed(job_id, 7)
    job = records.get(job_id)
    assert (job.state, job.progress, job.size_after_bytes) == ("succeeded", done, 7)
    assert job.created_at <= job.started_at <= job.ended_at
    assert set(job.links) == {"self", "artifact", "report"}


ENDS = {
    "succeeded": lambda records, job_id: records.succeed(job_id, 7),
    "failed": lambda records, job_id: records.fail(job_id, WHY),
    "cancelled": lambda records, job_id: records.cancel(job_id),
}


@pytest.mark.parametrize("second", ENDS)
@pytest.mark.parametrize("first", ENDS)
def test_end_is_the_end(records, first, second):
    job_id = add(records)
    assert records.start(job_id)
    assert ENDS[first](records, job_id)
    ended = records.get(job_id)
    assert not ENDS[second](records, job_id)
    assert not records.start(job_id)
    records.advance(job_id, Progress(tensors_done=1))
    assert records.get(job_id) == ended
    assert ended.state == first
    assert ended.error == (WHY if first == "failed" else None)


def test_alive_are_those_that_have_not_ended(records):
    ids = [add(records) for _ in range(4)]
    records.start(ids[1])
    records.cancel(ids[2])
    assert [job.id for job in records.alive()] == [ids[0], ids[1], ids[3]]


def test_pages_are_newest_first(records):
    ids = [add(records) for _ in range(5)]
    assert [job.id for job in records.page(2, None)] == ids[:2:-1]
    assert [job.id for job in records.page(9, ids[3])] == ids[2::-1]
    assert records.page(9, ids[0]) == []


@pytest.mark.parametrize(
    "job_id", ["", "\x00", "x" * 100_000, "01890a5d-ac96-774b-bcce-b302099a8057", "é" * 36]
)
def test_no_such_job(records, job_id):
    with pytest.raises(NotFound, match="no job"):
        records.get(job_id)
