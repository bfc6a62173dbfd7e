"""Rows of jobs, on every database that is claimed."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from app.database import open_database
from app.errors import Conflict, NotFound, StorageFull, problem
from app.jobs.records import Records
from app.jobs.rows import NewJob
from app.results.records import ResultRecords
from app.uploads.records import FileRecords, KeptFile
from schemas.jobs import Progress
from schemas.report import SliceOutcome
from schemas.tasks import Result, StoredSlice

numbers = itertools.count()
NOW = datetime(2026, 5, 6, 7, 8, 9, 101112, UTC)
HOUR = timedelta(hours=1)
WORK = Progress(tensors_total=3, bytes_total=1 << 40)
WHY = problem(StorageFull("the store is full"))
REQUEST = "5a" * 32


def new_id():
    return f"01890a5d-ac96-774b-bcce-{next(numbers):012x}"


@pytest.fixture
def records(database):
    return Records(database)


def add(records, files=(), enqueue=None, **chosen):
    new = NewJob(new_id(), "m.safetensors", 1 << 40, WORK, **chosen)
    return records.add(new, files, enqueue).id


def ended(records, state, expires_at=None, **chosen):
    job_id = add(records, **chosen)
    if state != "cancelled":
        assert records.start(job_id)
    assert ENDS[state](records, job_id, expires_at)
    return job_id


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
    assert set(job.links) == {"self", "artifact", "report", "report_csv"}


def test_links_are_those_of_the_state(records):
    job_id = add(records)
    assert set(records.get(job_id).links) == {"self", "cancel"}
    records.cancel(job_id)
    links = records.get(job_id).links
    assert links == {"self": f"/v1/jobs/{job_id}", "retry": f"/v1/jobs/{job_id}/retry"}


ENDS = {
    "succeeded": lambda records, job_id, until=None: records.succeed(job_id, 7, until),
    "failed": lambda records, job_id, until=None: records.fail(job_id, WHY, until),
    "cancelled": lambda records, job_id, until=None: records.cancel(job_id, until),
}


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
    records = Records(database, now=lambda: NOW)
    job = records.get(ended(records, "succeeded"))
    assert (job.created_at, job.started_at, job.ended_at) == (NOW, NOW, NOW)


def test_what_a_request_chose_reads_back(records):
    chosen = {"priority": 9, "deadline_at": NOW, "reuse": False}
    job = records.get(add(records, **chosen))
    assert {name: getattr(job, name) for name in chosen} == chosen
    plain = records.get(add(records))
    assert {name: getattr(plain, name) for name in chosen} == {
        "priority": 5,
        "deadline_at": None,
        "reuse": True,
    }


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_retry_starts_afresh(records, state):
    job_id = add(records, deadline_at=NOW, priority=7)
    assert records.start(job_id)
    records.advance(job_id, WORK.model_copy(update={"tensors_done": 2, "tensors_reused": 1}))
    assert ENDS[state](records, job_id, NOW + HOUR)
    assert records.retry(job_id) == 1
    job = records.get(job_id)
    assert (job.state, job.progress, job.attempt) == ("queued", WORK, 1)
    assert (job.started_at, job.ended_at, job.error, job.deadline_at) == (None,) * 4
    assert (job.priority, job.expires_at) == (7, None)
    assert [(alive.id, alive.attempt) for alive in records.alive()] == [(job_id, 1)]
    assert records.start(job_id, 0) is None, "what is left of the first attempt goes no further"
    assert records.start(job_id, 1).state == "running"
    assert records.start(job_id, 0) is None
    assert ENDS[state](records, job_id)
    assert records.retry(job_id) == 2


@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
def test_retry_of_another_state_is_refused(records, state):
    job_id = add(records)
    if state != "queued":
        assert records.start(job_id)
    if state == "succeeded":
        assert records.succeed(job_id, 7)
    before = records.get(job_id)
    said = f"the job is {state}; only failed and cancelled jobs can be retried"
    with pytest.raises(Conflict, match=said):
        records.retry(job_id)
    assert records.get(job_id) == before


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


def test_known_are_the_ids_of_jobs(records):
    ids = {add(records) for _ in range(3)}
    assert records.states([*ids, new_id(), ""]) == dict.fromkeys(ids, "queued")
    assert records.states([]) == {}


def note(noted):
    """What takes the engine's place: the transaction that it was called in, and what for."""

    def enqueue(session, *said):
        noted.append((session.in_transaction(), *said))

    return enqueue


def test_each_attempt_is_enqueued_once_while_it_lives(records):
    noted = []
    job_id = add(records, priority=7, enqueue=note(noted))
    records.enqueue_again(job_id, note(noted))
    records.fail(job_id, WHY)
    for gone in (job_id, new_id()):
        records.enqueue_again(gone, note(noted))
    records.retry(job_id, note(noted))
    with pytest.raises(Conflict):
        records.retry(job_id, note(noted))
    first, second = (True, job_id, 0, 7), (True, job_id, 1, 7)
    assert noted == [first, first, second]


def refuse(*_):
    raise LookupError


def test_job_that_cannot_be_enqueued_is_not_there(records, database):
    with pytest.raises(LookupError):
        add(records, files=[KeptFile("a" * 64, "files/a", 7)], enqueue=refuse)
    assert records.counts() == {}
    assert list(FileRecords(database).paths()) == []


def test_retry_that_cannot_be_enqueued_did_not_happen(records):
    job_id = ended(records, "failed", expires_at=NOW)
    before = records.get(job_id)
    with pytest.raises(LookupError):
        records.retry(job_id, refuse)
    assert records.get(job_id) == before


def test_counts_by_state(records):
    assert records.counts() == {}
    add(records)
    for state in ("failed", "failed", "cancelled"):
        ended(records, state)
    assert records.counts() == {"queued": 1, "failed": 2, "cancelled": 1}


@pytest.mark.parametrize("state", ["queued", "running"])
def test_delete_of_a_living_job_is_refused(records, state):
    job_id = add(records)
    if state == "running":
        records.start(job_id)
    with pytest.raises(Conflict, match=f"the job is {state}; cancel it"):
        records.delete(job_id)
    assert records.get(job_id).state == state


def test_delete_takes_results_and_the_need_of_files_along(records, database):
    files, results = FileRecords(database), ResultRecords(database)
    job_id = ended(records, "succeeded", files=[KeptFile("a" * 64, "files/a", 7)])
    outcome = SliceOutcome(name="w", action="palettized", weights=1)
    found = Result(
        recipe="3" * 64,
        origin_key="2" * 64,
        content_key="1" * 64,
        stored=StoredSlice(path="jobs/1/artifact/m", outcome=outcome, tensors={}),
    )
    results.remember("local", job_id, [found])
    assert results.by_content("local", ["1" * 64]) == {"1" * 64: found.stored}
    assert not files.forget("a" * 64)
    records.delete(job_id)
    with pytest.raises(NotFound):
        records.get(job_id)
    assert results.by_content("local", ["1" * 64]) == {}
    assert files.find(["a" * 64]) == {"a" * 64: "files/a"}, "its bytes are the sweep's to delete"
    assert files.forget("a" * 64)


@pytest.mark.parametrize("ask", [Records.retry, Records.delete], ids=["retry", "delete"])
@pytest.mark.parametrize("job_id", ["\x00", "01890a5d-ac96-774b-bcce-b302099a8057"])
def test_no_such_job_to_change(records, ask, job_id):
    with pytest.raises(NotFound, match="no job"):
        ask(records, job_id)


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
        assert Records(another).succeed(job_id, 7)
        at_the_end = records.get(job_id)
        list(noted)
    assert records.get(job_id) == at_the_end
    another.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("end", ENDS)
def test_one_of_many_ends_wins(records, end):
    job_id = add(records)
    assert records.start(job_id)
    ends = [*ENDS.values(), ENDS[end]] * 4
    with ThreadPoolExecutor(len(ends)) as pool:
        assert sum(pool.map(lambda one: one(records, job_id), ends)) == 1
