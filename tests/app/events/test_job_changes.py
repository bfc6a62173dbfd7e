"""Changes of jobs, on every supported database."""

import json

import pytest

from palettery.app.events import job_changes as module
from palettery.app.events.job_changes import JobChangeRepository, add_change
from palettery.schemas.jobs import Job, Progress
from tests.app.jobs.sample_jobs import WHY, add, ended
from tests.databases import KINDS_IN_HEAVY

pytestmark = pytest.mark.databases(*KINDS_IN_HEAVY)

HERE = {"local"}


@pytest.fixture
def changes(database):
    return JobChangeRepository(database)


def seen(jobs):
    return {id_: job and json.loads(job)["state"] for id_, job in jobs.get("local", {}).items()}


def test_every_change_is_found_once_and_as_it_stands(records, changes):
    start = changes.latest_position()
    first, second, other = add(records), add(records), add(records, owner="other")
    changed_jobs = changes.changes_since(start, HERE)
    assert seen(changed_jobs.changed) == {first: "queued", second: "queued"}
    assert changes.changes_since(changed_jobs.position, HERE).changed == {}
    records.start(first)
    records.advance(first, Progress(tensors_done=1))
    records.fail(first, WHY, attempt=0)
    records.retry(first)
    records.cancel(second)
    records.start(other)
    changed_jobs = changes.changes_since(changed_jobs.position, HERE)
    assert seen(changed_jobs.changed) == {first: "queued", second: "cancelled"}
    assert changed_jobs.running == {}, "only of the owners in question"
    assert changes.changes_since(changed_jobs.position, {"other"}).running.keys() == {"other"}
    records.delete(second)
    assert seen(changes.changes_since(changed_jobs.position, HERE).changed) == {second: None}
    assert seen(changes.changes_since(start, HERE).changed) == {first: "queued", second: None}


def test_running_jobs_come_with_their_progress(records, changes):
    job_id = add(records)
    records.start(job_id)
    start = changes.latest_position()
    records.advance(job_id, Progress(tensors_done=2, tensors_total=3))
    changed_jobs = changes.changes_since(start, HERE)
    assert changed_jobs.changed == {}
    job = Job.model_validate_json(changed_jobs.running["local"][job_id])
    assert job == records.get(job_id)
    assert job.progress.tensors_done == 2


@pytest.mark.databases("postgresql")
def test_transaction_that_ends_late_is_not_missed(database, records, changes):
    early = ended(records, "cancelled")
    before = changes.latest_position()
    with database.transaction() as slow:
        add_change(slow, "local", early)
        later = add(records)
        changed_jobs = changes.changes_since(before, HERE)
        assert seen(changed_jobs.changed) == {later: "queued"}
        fresh = changes.latest_position()
        assert seen(changes.changes_since(changed_jobs.position, HERE).changed) == {}
    for position in (changed_jobs.position, fresh):
        now = changes.changes_since(position, HERE)
        assert seen(now.changed) == {early: "cancelled"}
        assert not now.position.missing


@pytest.mark.databases("postgresql")
def test_number_of_a_transaction_that_failed_is_not_awaited_for_ever(
    database, records, changes, monkeypatch
):
    before = changes.latest_position()
    add(records)
    with database.transaction() as session:
        add_change(session, "local", "x")
        session.rollback()
    add(records)
    changed_jobs = changes.changes_since(before, HERE)
    assert len(changed_jobs.position.missing) == 1
    assert changes.changes_since(changed_jobs.position, HERE).position == changed_jobs.position
    monkeypatch.setattr(
        module.time, "monotonic", lambda: max(changed_jobs.position.missing.values()) + 1
    )
    assert not changes.changes_since(changed_jobs.position, HERE).position.missing


def test_reader_that_is_too_far_behind_has_to_start_over(records, changes, monkeypatch):
    monkeypatch.setattr(module, "MAX_CHANGES", 3)
    start = changes.latest_position()
    jobs = [add(records) for _ in range(3)]
    changes.delete_old()
    assert seen(changes.changes_since(start, HERE).changed) == dict.fromkeys(jobs, "queued")
    jobs.append(add(records))
    changes.delete_old()
    assert changes.changes_since(start, HERE) is None
    assert changes.changes_since(changes.latest_position(), HERE).changed == {}


def test_many_changes_are_taken_in_one_after_the_other(records, changes, monkeypatch):
    monkeypatch.setattr(module, "_CHANGES_AFTER", module._CHANGES_AFTER.limit(2))
    position, jobs, ids = changes.latest_position(), [add(records) for _ in range(5)], []
    for count in (2, 2, 1, 0):
        changed_jobs = changes.changes_since(position, HERE)
        assert len(seen(changed_jobs.changed)) == count
        ids += seen(changed_jobs.changed)
        position = changed_jobs.position
    assert ids == jobs
