"""What became of whole lists of jobs, on every database that is claimed."""

import json

import pytest

from palettery.app.events import job_changes as module
from palettery.app.events.job_changes import JobChangeRepository, note
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
    start = changes.position()
    first, second, other = add(records), add(records), add(records, owner="other")
    look = changes.look(start, HERE)
    assert seen(look.changed) == {first: "queued", second: "queued"}
    assert changes.look(look.position, HERE).changed == {}
    records.start(first)
    records.advance(first, Progress(tensors_done=1))
    records.fail(first, WHY, attempt=0)
    records.retry(first)
    records.cancel(second)
    records.start(other)
    look = changes.look(look.position, HERE)
    assert seen(look.changed) == {first: "queued", second: "cancelled"}
    assert look.running == {}, "of other owners it is said to those that ask for them"
    assert changes.look(look.position, {"other"}).running.keys() == {"other"}
    records.delete(second)
    assert seen(changes.look(look.position, HERE).changed) == {second: None}
    assert seen(changes.look(start, HERE).changed) == {first: "queued", second: None}


def test_running_jobs_are_told_with_their_progress(records, changes):
    job_id = add(records)
    records.start(job_id)
    start = changes.position()
    records.advance(job_id, Progress(tensors_done=2, tensors_total=3))
    look = changes.look(start, HERE)
    assert look.changed == {}
    job = Job.model_validate_json(look.running["local"][job_id])
    assert job == records.get(job_id)
    assert job.progress.tensors_done == 2


@pytest.mark.databases("postgresql")
def test_transaction_that_ends_late_is_not_missed(database, records, changes):
    early = ended(records, "cancelled")
    before = changes.position()
    with database.transaction() as slow:
        note(slow, "local", early)
        later = add(records)
        look = changes.look(before, HERE)
        assert seen(look.changed) == {later: "queued"}
        fresh = changes.position()
        assert seen(changes.look(look.position, HERE).changed) == {}
    for position in (look.position, fresh):
        now = changes.look(position, HERE)
        assert seen(now.changed) == {early: "cancelled"}
        assert not now.position.missing


@pytest.mark.databases("postgresql")
def test_number_of_a_transaction_that_failed_is_not_awaited_for_ever(
    database, records, changes, monkeypatch
):
    before = changes.position()
    add(records)
    with database.transaction() as session:
        note(session, "local", "x")
        session.rollback()
    add(records)
    look = changes.look(before, HERE)
    assert len(look.position.missing) == 1
    assert changes.look(look.position, HERE).position == look.position
    monkeypatch.setattr(module.time, "monotonic", lambda: max(look.position.missing.values()) + 1)
    assert not changes.look(look.position, HERE).position.missing


def test_who_has_not_looked_for_too_long_is_told_so(records, changes, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 3)
    start = changes.position()
    jobs = [add(records) for _ in range(3)]
    changes.forget_old()
    assert seen(changes.look(start, HERE).changed) == dict.fromkeys(jobs, "queued")
    jobs.append(add(records))
    changes.forget_old()
    assert changes.look(start, HERE) is None
    assert changes.look(changes.position(), HERE).changed == {}


def test_many_changes_are_taken_in_one_after_the_other(records, changes, monkeypatch):
    monkeypatch.setattr(module, "_BEHIND", module._BEHIND.limit(2))
    position, jobs, found = changes.position(), [add(records) for _ in range(5)], []
    for count in (2, 2, 1, 0):
        look = changes.look(position, HERE)
        assert len(seen(look.changed)) == count
        found += seen(look.changed)
        position = look.position
    assert found == jobs
