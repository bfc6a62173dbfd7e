"""Rows of jobs, on every database that is claimed."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from palettery.app.database.engine import open_database
from palettery.app.errors import NotFound
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.schemas.job_options import JobOptions
from palettery.schemas.jobs import Progress
from tests.app.jobs.sample_jobs import ENDS, HOUR, NOW, WHY, WORK, add, ended, new_id
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)

REQUEST = "5a" * 32


def test_new_job_is_queued_and_reads_back_as_it_was_made(records):
    job = records.add(NewJob(new_id(), "größe.safetensors", 1 << 40, WORK))
    assert (job.state, job.progress, job.size_before_bytes) == ("queued", WORK, 1 << 40)
    assert job.created_at.tzinfo == UTC
    assert abs((datetime.now(UTC) - job.created_at).total_seconds()) < 60
    assert records.get(job.id) == job


def test_life_of_a_job_that_succeeds(records):
    job_id = add(records)
    started = records.start(job_id)
    assert started.state == "running"
    assert started == records.get(job_id)
    assert records.start(job_id) == started, "a recovered job goes on"
    done = Progress(tensors_done=3, tensors_total=3, bytes_done=1 << 40, bytes_total=1 << 40)
    assert records.advance(job_id, done)
    assert records.succeed(job_id, 7)
    job = records.get(job_id)
    assert (job.state, job.progress, job.size_after_bytes) == ("succeeded", done, 7)
    assert job.created_at <= job.started_at <= job.ended_at
    of_success = {"artifact", "report", "report_csv", "report_html", "evaluations"}
    assert set(job.links) == {"self", "config", *of_success}


def test_links_are_those_of_the_state(records):
    job_id = add(records)
    assert set(records.get(job_id).links) == {"self", "config", "cancel"}
    records.cancel(job_id)
    here = f"/v1/jobs/{job_id}"
    links = records.get(job_id).links
    assert links == {"self": here, "config": f"{here}/config", "retry": f"{here}/retry"}


@pytest.mark.parametrize("second", ENDS)
@pytest.mark.parametrize("first", ENDS)
def test_end_is_the_end(records, first, second):
    job_id = add(records)
    assert records.start(job_id)
    assert ENDS[first](records, job_id, NOW)
    ended = records.get(job_id)
    assert ended.expires_at == NOW
    assert not ENDS[second](records, job_id, NOW + HOUR)
    assert not records.start(job_id)
    assert not records.advance(job_id, Progress(tensors_done=1))
    assert records.get(job_id) == ended
    assert ended.state == first
    assert ended.error == (WHY if first == "failed" else None)


def test_alive_are_those_that_have_not_ended(records):
    ids = [add(records) for _ in range(4)]
    records.start(ids[1])
    records.cancel(ids[2])
    assert [job.id for job in records.alive()] == [ids[0], ids[1], ids[3]]


def test_success_comes_with_the_last_of_the_progress(records):
    job_id = add(records)
    records.start(job_id)
    done = Progress(tensors_done=3, tensors_total=3, bytes_done=1 << 40, bytes_total=1 << 40)
    assert records.succeed(job_id, 7, progress=done)
    assert records.get(job_id).progress == done


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
    assert records.start("01890a5d-ac96-774b-bcce-b302099a8057") is None


def test_times_are_the_clocks(database):
    records = JobRepository(database, now=lambda: NOW)
    job = records.get(ended(records, "succeeded"))
    assert (job.created_at, job.started_at, job.ended_at) == (NOW, NOW, NOW)


def test_what_a_request_chose_reads_back(records):
    options = JobOptions(label="a job", priority=9, reuse=False)
    job = records.get(add(records, options=options, deadline_at=NOW))
    assert (job.label, job.priority, job.reuse, job.deadline_at) == ("a job", 9, False, NOW)
    plain = records.get(add(records))
    assert (plain.label, plain.priority, plain.reuse, plain.deadline_at) == (None, 5, True, None)


def test_overdue_are_the_living_past_their_deadline(records):
    late, running, ended_late, _, _ = (
        add(records, deadline_at=at) for at in (NOW, NOW, NOW, NOW + HOUR, None)
    )
    records.start(running)
    records.cancel(ended_late)
    assert records.overdue(NOW) == []
    assert records.overdue(NOW + HOUR) == [late, running]


def test_expired_are_the_ended_past_their_time(records):
    retried = ended(records, "failed", expires_at=NOW)
    cancelled = ended(records, "cancelled", expires_at=NOW)
    kept_longer = ended(records, "succeeded", expires_at=NOW + 2 * HOUR)
    ended(records, "failed")
    assert records.expired(NOW) == []
    assert records.expired(NOW + HOUR) == [retried, cancelled]
    records.retry(retried)
    assert records.expired(NOW + HOUR) == [cancelled]
    records.fail(retried, WHY, NOW)
    assert records.expired(NOW + 3 * HOUR) == [retried, cancelled, kept_longer]


def test_twin_is_the_newest_success_of_the_same_request(records):
    first, second = (ended(records, "succeeded", request_sha256=REQUEST) for _ in range(2))
    failed = ended(records, "failed", request_sha256=REQUEST)
    other = ended(records, "succeeded", request_sha256="0" * 64)
    without = [ended(records, "succeeded") for _ in range(2)]
    assert records.twin(failed) == second
    assert records.twin(second) == first
    assert [records.twin(job_id) for job_id in (other, *without, new_id())] == [None] * 4


def test_folder_states_leave_out_unknown_ids(records):
    ids = {add(records) for _ in range(3)}
    states = records.folder_states([*ids, new_id(), ""])
    assert states == dict.fromkeys(ids, ("queued", False))
    assert records.folder_states([]) == {}


def test_pages_by_state_and_model(records):
    models = {name: name * 64 for name in "ab"}
    made = [
        ended(records, state, model_id=models[name], owner=owner)
        for _ in range(3)
        for owner in ("one", "two")
        for name in models
        for state in ENDS
    ]
    made += [add(records, owner="one") for _ in range(2)]
    jobs = [job for job in map(records.get, made[::-1]) if job.owner == "one"]
    for states in ((), ("failed",), ("queued", "succeeded"), ("failed", "failed"), ("running",)):
        for model_id in (None, models["a"], "c" * 64):
            expected = [
                job
                for job in jobs
                if (not states or job.state in states) and model_id in (None, job.model_id)
            ]
            listed, before = [], None
            while page := records.page(2, before, "one", states, model_id):
                listed += page
                before = page[-1].id
            assert listed == expected


def test_counts_by_state(records):
    assert records.counts() == {}
    add(records)
    for state in ("failed", "failed", "cancelled"):
        ended(records, state)
    assert records.counts() == {"queued": 1, "failed": 2, "cancelled": 1}


def test_hundred_threads_advance(records, database_url):
    job_id = add(records)
    assert records.start(job_id)
    written = [WORK.model_copy(update={"tensors_done": n, "bytes_done": n}) for n in range(100)]
    with ThreadPoolExecutor(100) as pool:
        list(pool.map(lambda progress: records.advance(job_id, progress), written))
    assert records.get(job_id).progress in written
    another = open_database(database_url)
    with ThreadPoolExecutor(100) as pool:
        noted = pool.map(lambda progress: records.advance(job_id, progress), written)
        assert JobRepository(another).succeed(job_id, 7)
        at_the_end = records.get(job_id)
        list(noted)
    assert records.get(job_id) == at_the_end
    another.close()


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("end", ENDS)
def test_one_of_many_ends_wins(records, end):
    job_id = add(records)
    assert records.start(job_id)
    ends = [*ENDS.values(), ENDS[end]] * 4
    with ThreadPoolExecutor(len(ends)) as pool:
        assert sum(pool.map(lambda one: one(records, job_id), ends)) == 1
