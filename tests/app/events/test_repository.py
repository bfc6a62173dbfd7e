"""Rows of events of jobs, on every supported database."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from palettery.app.database.tables import JobEventRow
from palettery.app.errors import StorageFull, problem
from palettery.app.events.log_messages import LogMessage
from palettery.app.events.repository import (
    LOG_FULL,
    MAX_CHARACTERS,
    MAX_LINES,
    EventRepository,
    JobSnapshot,
)
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.schemas.job_options import JobOptions
from palettery.schemas.jobs import Progress
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)

numbers = itertools.count()
NOW = datetime(2026, 5, 6, 7, 8, 9, 101112, UTC)
WHY = problem(StorageFull("the store is full"))
ALL = 10_000
HOOK = "https://example.com/hook"


@pytest.fixture
def records(database):
    return JobRepository(database, lambda: NOW)


@pytest.fixture
def events(database):
    return EventRepository(database, lambda: NOW)


def add(records, **chosen):
    job_id = f"01890a5d-ac96-774b-bcce-{next(numbers):012x}"
    return records.add(NewJob(job_id, "m", 1, Progress(tensors_total=3), **chosen)).id


def texts(events, job_id, after=0):
    """Events as (kind, state or message)."""
    data = [json.loads(event.data) for event in events.after(job_id, after, ALL)]
    return [one["state"] if "state" in one else one["message"] for one in data]


def states(events, job_id):
    return [
        json.loads(event.data)["state"]
        for event in events.after(job_id, 0, ALL)
        if event.kind == "state"
    ]


def test_every_change_of_state_is_an_event_with_the_job_as_it_was(records, events):
    job_id = add(records)
    jobs = [records.get(job_id), records.start(job_id)]
    records.fail(job_id, WHY)
    jobs.append(records.get(job_id))
    records.retry(job_id)
    jobs.append(records.get(job_id))
    changes = [event for event in events.after(job_id, 0, ALL) if event.kind == "state"]
    assert [json.loads(event.data) for event in changes] == [
        job.model_dump(mode="json") for job in jobs
    ]
    assert states(events, job_id) == ["queued", "running", "failed", "queued"]


def test_what_changed_no_state_is_no_event(records, events):
    job_id = add(records)
    records.start(job_id)
    records.advance(job_id, Progress(tensors_done=1))
    records.succeed(job_id, 7)
    before = texts(events, job_id)
    assert not records.cancel(job_id)
    assert not records.fail(job_id, WHY)
    assert records.start(job_id) is None
    assert texts(events, job_id) == before


def test_reasons_come_before_the_end(records, events):
    first, second = add(records), add(records)
    records.fail(first, WHY)
    records.cancel(second)
    assert texts(events, first)[-2:] == ["failed: the store is full", "failed"]
    assert texts(events, second)[-2:] == ["cancelled", "cancelled"]


def test_log_of_a_queued_job_tells_how_many_go_first(records, events):
    first = add(records)
    records.start(first)
    urgent, patient = JobOptions(priority=9), JobOptions(priority=0)
    waiting = [
        add(records),
        add(records, options=urgent),
        add(records),
        add(records, options=patient),
    ]
    expected = ["queued; next in line"] * 2 + ["queued behind 2 jobs", "queued behind 3 jobs"]
    assert [texts(events, job_id)[-1] for job_id in waiting] == expected
    records.cancel(waiting[0])
    records.retry(waiting[0])
    assert texts(events, waiting[0])[-1] == "queued behind 2 jobs"


def test_log_of_a_resumed_job_says_so_once(records, events):
    job_id = add(records)
    for _ in range(3):
        records.start(job_id, by="one")
    again = "resumed by controller one; finished work is not repeated"
    assert texts(events, job_id)[-3:] == ["running", "started by controller one", again]


def test_numbers_have_no_gaps_whoever_writes(records, events):
    job_id = add(records)
    records.start(job_id)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: events.log(job_id, LogMessage(f"line {n}")), range(40)))
    records.succeed(job_id, 7)
    stored = events.after(job_id, 0, ALL)
    assert [event.number for event in stored] == list(range(1, len(stored) + 1))
    assert {f"line {n}" for n in range(40)} <= set(texts(events, job_id))
    assert events.snapshots([job_id])[job_id].newest == len(stored)


def test_same_line_is_written_once_between_two_changes_of_state(records, events):
    job_id, line = add(records), LogMessage("the store is away", "warning")
    for _ in range(3):
        events.log(job_id, line, line)
    records.start(job_id)
    events.log(job_id, line)
    assert texts(events, job_id).count("the store is away") == 2


def test_log_is_bounded_and_says_where_it_ends(records, events):
    job_id = add(records)
    for start in range(0, MAX_LINES + 100, 50):
        events.log(job_id, *(LogMessage(f"line {start + n}") for n in range(50)))
    lines = events.lines(job_id, 0, ALL).items
    assert len(lines) == MAX_LINES
    assert lines[-1].message == LOG_FULL.message
    assert lines[-2].message == f"line {MAX_LINES - 3}"
    records.start(job_id)
    records.fail(job_id, WHY)
    assert events.lines(job_id, 0, ALL).items == lines
    assert states(events, job_id) == ["queued", "running", "failed"], "states are always kept"


def test_odd_lines_are_kept_as_text(records, events):
    job_id = add(records)
    events.log(job_id, LogMessage("x" * 9_999), LogMessage("\x00 \ud800 \n größe", "error", "w\n"))
    long, odd = events.lines(job_id, 0, ALL).items[-2:]
    assert len(long.message) == MAX_CHARACTERS
    assert (odd.message, odd.level, odd.tensor) == ("\x00 ? \n größe", "error", "w\n")
    assert odd.at == NOW


def test_pages_of_the_log(records, events):
    job_id = add(records)
    events.log(job_id, *(LogMessage(f"line {n}") for n in range(5)))
    records.start(job_id)
    after, seen = 0, []
    while (page := events.lines(job_id, after, 2)).items:
        assert len(page.items) <= 2
        after = page.next_after
        seen += [line.message for line in page.items]
    assert seen[1:-1] == [f"line {n}" for n in range(5)]
    assert events.lines(job_id, after, 2).next_after == after
    events.log(job_id, LogMessage("later"))
    assert [line.message for line in events.lines(job_id, after, 2).items] == ["later"]


def test_jobs_that_are_not_there_have_no_events(records, events, database):
    job_id = add(records)
    records.cancel(job_id)
    records.delete(job_id)
    events.log(job_id, LogMessage("too late"))
    assert events.after(job_id, 0, ALL) == []
    assert events.snapshots([job_id]) == {}
    with database.transaction() as session:
        assert session.scalars(select(JobEventRow.number)).all() == []


def test_snapshots_have_progress_and_whether_the_job_has_ended(records, events):
    running, ended = add(records), add(records)
    records.start(running)
    now = Progress(tensors_done=2, tensors_total=3, bytes_done=5)
    records.advance(running, now)
    records.cancel(ended)
    snapshots = events.snapshots([running, ended])
    assert snapshots[running] == JobSnapshot(4, has_ended=False, progress=now)
    assert snapshots[ended] == JobSnapshot(4, has_ended=True, progress=Progress(tensors_total=3))


def test_event_and_change_are_one(records, events, database):
    def refuse(*_):
        raise LookupError

    noticed = JobRepository(database, notify=refuse)
    job_id = add(records, options=JobOptions(webhook_url=HOOK))
    before = texts(events, job_id)
    with pytest.raises(LookupError):
        noticed.cancel(job_id)
    assert texts(events, job_id) == before
    assert records.get(job_id).state == "queued"


@pytest.mark.parametrize("end", ["succeed", "fail", "cancel"])
def test_webhooks_hear_of_each_end_with_its_event(database, events, end):
    heard = []
    records = JobRepository(database, notify=lambda _, call: heard.append(call))
    with_hook, without = add(records, options=JobOptions(webhook_url=HOOK)), add(records)
    ends = {"succeed": (7,), "fail": (WHY,), "cancel": ()}
    for job_id in (with_hook, without):
        records.start(job_id)
        assert getattr(records, end)(job_id, *ends[end])
    newest = events.snapshots([with_hook])[with_hook].newest
    assert heard == [(with_hook, 0, newest, 0)]
    at, job = events.state(with_hook, newest)
    assert job == records.get(with_hook)
    assert at <= datetime.now(UTC)
    assert events.state(with_hook, newest + 1) is None
