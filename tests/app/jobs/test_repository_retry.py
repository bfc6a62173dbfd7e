"""Retrying, enqueuing and deleting: all of it in one transaction with the job's row."""

import pytest

from palettery.app.errors import Conflict, NotFound
from palettery.app.files.repository import FileLocation, FileRepository
from palettery.app.jobs.repository import JobRepository
from palettery.app.jobs.result_repository import ResultRepository
from palettery.schemas.job_options import JobOptions
from palettery.schemas.report import SliceOutcome
from palettery.schemas.tasks import Result, StoredSlice
from tests.app.jobs.sample_jobs import ENDS, HOUR, NOW, WHY, WORK, add, ended, new_id
from tests.databases import KINDS_IN_HEAVY

pytestmark = pytest.mark.databases(*KINDS_IN_HEAVY)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_retry_starts_afresh(records, state):
    job_id = add(records, deadline_at=NOW, options=JobOptions(priority=7))
    assert records.start(job_id)
    records.advance(job_id, WORK.model_copy(update={"tensors_done": 2, "tensors_reused": 1}))
    assert ENDS[state](records, job_id, NOW + HOUR)
    assert records.retry(job_id) == 1
    job = records.get(job_id)
    assert (job.state, job.progress, job.attempt) == ("queued", WORK, 1)
    assert (job.started_at, job.ended_at, job.error, job.deadline_at) == (None,) * 4
    assert (job.priority, job.expires_at) == (7, None)
    assert [(alive.id, alive.attempt) for alive in records.active()] == [(job_id, 1)]
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
    message = f"the job is {state}; only failed and cancelled jobs can be retried"
    with pytest.raises(Conflict, match=message):
        records.retry(job_id)
    assert records.get(job_id) == before


def note(noted):
    """What takes the engine's place: the transaction that it was called in, and what for."""

    def enqueue(session, *attempt):
        noted.append((session.in_transaction(), *attempt))

    return enqueue


def test_each_attempt_is_enqueued_once_while_it_lives(records):
    noted = []
    job_id = add(records, options=JobOptions(priority=7), enqueue=note(noted))
    records.enqueue_again(job_id, note(noted))
    records.fail(job_id, WHY)
    for gone in (job_id, new_id()):
        records.enqueue_again(gone, note(noted))
    records.retry(job_id, note(noted))
    with pytest.raises(Conflict):
        records.retry(job_id, note(noted))
    first, second = (True, job_id, 0, 0), (True, job_id, 1, 0)
    assert noted == [first, first, second]


def refuse(*_):
    raise LookupError


def test_job_that_cannot_be_enqueued_is_not_there(records, database):
    with pytest.raises(LookupError):
        add(records, files=[FileLocation("a" * 64, "files/a", 7)], enqueue=refuse)
    assert records.counts() == {}
    assert list(FileRepository(database).paths()) == []


def test_retry_that_cannot_be_enqueued_did_not_happen(records):
    job_id = ended(records, "failed", expires_at=NOW)
    before = records.get(job_id)
    with pytest.raises(LookupError):
        records.retry(job_id, refuse)
    assert records.get(job_id) == before


@pytest.mark.parametrize("state", ["queued", "running"])
def test_delete_of_a_living_job_is_refused(records, state):
    job_id = add(records)
    if state == "running":
        records.start(job_id)
    with pytest.raises(Conflict, match=f"the job is {state}; cancel it"):
        records.delete(job_id)
    assert records.get(job_id).state == state


def test_delete_takes_results_and_the_need_of_files_along(records, database):
    files, results = FileRepository(database), ResultRepository(database)
    job_id = ended(records, "succeeded", files=[FileLocation("a" * 64, "files/a", 7)])
    outcome = SliceOutcome(name="w", action="palettized", weights=1)
    result = Result(
        recipe="3" * 64,
        origin_key="2" * 64,
        content_key="1" * 64,
        stored=StoredSlice(path="jobs/1/artifact/m", outcome=outcome, tensors={}),
    )
    results.remember("local", job_id, [result])
    assert results.by_content("local", ["1" * 64]) == {"1" * 64: result.stored}
    assert not files.delete_if_unused("a" * 64)
    records.delete(job_id)
    with pytest.raises(NotFound):
        records.get(job_id)
    assert results.by_content("local", ["1" * 64]) == {}
    assert files.find(["a" * 64]) == {"a" * 64: "files/a"}, "its bytes are the sweep's to delete"
    assert files.delete_if_unused("a" * 64)


@pytest.mark.parametrize(
    "ask", [JobRepository.retry, JobRepository.delete], ids=["retry", "delete"]
)
@pytest.mark.parametrize("job_id", ["\x00", "01890a5d-ac96-774b-bcce-b302099a8057"])
def test_no_such_job_to_change(records, ask, job_id):
    with pytest.raises(NotFound, match="no job"):
        ask(records, job_id)
