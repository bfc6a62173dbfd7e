"""Rows of the result cache, on every database that is claimed."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from palettery.app.database.engine import MAX_IN_LIST
from palettery.app.errors import NotFound
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.app.jobs.result_repository import ResultRepository
from palettery.schemas.checkpoint import StoredTensor
from palettery.schemas.jobs import Progress
from palettery.schemas.report import SliceOutcome
from palettery.schemas.tasks import Result, StoredSlice
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)

numbers = itertools.count()
NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.fixture
def results(database):
    """Of which each write is a second later than the one before."""
    later = (NOW + timedelta(seconds=second) for second in itertools.count())
    return ResultRepository(database, now=lambda: next(later))


@pytest.fixture
def new_job(database):
    def add():
        job_id = f"01890a5d-ac96-774b-bcce-{next(numbers):012x}"
        return JobRepository(database).add(NewJob(job_id, "m", 1, Progress())).id

    return add


def key(kind, number):
    return f"{kind}{number:063x}"


def slice_of(number, path="jobs/1/artifact/m"):
    lut = StoredTensor(name="lut", dtype="F32", shape=(2,), file=0, offset=number, size_bytes=8)
    outcome = SliceOutcome(name=f"größe {number}", action="palettized", weights=1, sse=0.1)
    return StoredSlice(path=path, outcome=outcome, tensors={"lut": lut})


def result(number, path="jobs/1/artifact/m", recipe=0, **other):
    return Result(
        **{
            "recipe": key("e", recipe),
            "origin_key": key("0", number),
            "content_key": key("c", number),
            "stored": slice_of(number, path),
        }
        | other
    )


def test_what_is_remembered_is_found(results, new_job):
    results.remember(
        "local", new_job(), [result(1), result(2, "jobs/1/artifact/n"), result(3, recipe=1)]
    )
    first, second = slice_of(1), slice_of(2, "jobs/1/artifact/n")
    numbers = [1, 2, 9]
    assert results.by_content("local", [key("c", n) for n in numbers]) == {
        key("c", 1): first,
        key("c", 2): second,
    }
    assert results.by_origin("local", [key("0", n) for n in numbers]) == {
        key("0", 1): first,
        key("0", 2): second,
    }
    assert results.candidates("local", [key("e", n) for n in (0, 1, 2)]) == {
        key("e", 0),
        key("e", 1),
    }
    assert results.by_content("local", []) == results.by_origin("local", []) == {}


def test_nothing_to_remember(results):
    results.remember("local", "nobody", [])


def test_newest_wins(results, new_job):
    older, newer = new_job(), new_job()
    results.remember("local", older, [result(1)])
    moved = result(1, "jobs/2/artifact/n", origin_key=key("0", 8))
    results.remember("local", newer, [result(1, "jobs/2/artifact/m"), moved])
    stored = slice_of(1, "jobs/2/artifact/n")
    assert results.by_content("local", [key("c", 1)]) == {key("c", 1): stored}
    assert results.by_origin("local", [key("0", 1), key("0", 8)]) == {key("0", 8): stored}


def test_newest_of_one_origin_wins(results, new_job):
    job_id = new_job()
    for number in (2, 1):
        results.remember("local", job_id, [result(number, origin_key=key("0", 5))])
    assert results.by_origin("local", [key("0", 5)]) == {key("0", 5): slice_of(1)}


def test_result_belongs_to_the_job_that_made_it_last(database, results, new_job):
    older, newer = new_job(), new_job()
    for job_id in (older, newer):
        results.remember("local", job_id, [result(1)])
    records = JobRepository(database)
    for job_id, is_left in ((older, True), (newer, False)):
        records.cancel(job_id)
        records.delete(job_id)
        assert bool(results.by_content("local", [key("c", 1)])) == is_left


def test_results_of_a_deleted_job_are_refused(results):
    with pytest.raises(NotFound, match="deleted"):
        results.remember("local", "01890a5d-ac96-774b-bcce-b302099a8057", [result(1)])
    assert results.candidates("local", [key("e", 0)]) == set()


@pytest.mark.heavy
def test_more_than_one_list_holds(database, results, new_job):
    count = MAX_IN_LIST + 1
    job_id = new_job()
    rows = [result(n, recipe=n) for n in range(count)]
    for _ in range(2):
        results.remember("local", job_id, rows)
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM results")) == count
    assert len(results.by_content("local", [key("c", n) for n in range(count)])) == count
    assert len(results.by_origin("local", [key("0", n) for n in range(count)])) == count
    assert len(results.candidates("local", [key("e", n) for n in range(count)])) == count


def test_threads_that_remember_the_same(results, new_job):
    ids = [new_job() for _ in range(8)]
    rows = [result(n) for n in range(300)]

    def remember(number):
        ordered = rows if number % 2 else rows[::-1]
        here = slice_of(number)
        results.remember(
            "local", ids[number], [row.model_copy(update={"stored": here}) for row in ordered]
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(remember, range(8)))
    stored = results.by_content("local", [row.content_key for row in rows])
    assert len(stored) == 300
    assert all(one in [slice_of(number) for number in range(8)] for one in stored.values())
