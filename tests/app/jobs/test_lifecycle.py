"""Jobs ended, retried and deleted from outside, on every database that is claimed."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest

from palettery.app.compression.job_folder import job_folder, stop_path
from palettery.app.errors import Conflict, DeadlineExceeded, NotFound, problem
from palettery.app.files.repository import FileLocation, FileRepository
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.lifecycle import JobLifecycle
from palettery.app.settings import Settings
from palettery.app.storage.open import open_storage
from palettery.schemas.jobs import Progress
from palettery.schemas.keys import OwnerLimits
from tests.databases import KINDS_IN_HEAVY

pytestmark = pytest.mark.databases(*KINDS_IN_HEAVY)

numbers = itertools.count()
WHY = problem(DeadlineExceeded("too late"))
RETAIN_DAYS = 3.0


class Service:
    """Jobs of which nobody works on any."""

    def __init__(self, store, database, jobs, engine):
        self.store, self.jobs, self.engine = store, jobs, engine
        self.files = FileRepository(database)
        settings = Settings(retain_days=RETAIN_DAYS)
        self.control = JobLifecycle(settings, jobs, self.files, store, engine)

    def add(self, *letters):
        job_id = f"01890a5d-ac96-774b-bcce-{next(numbers):012x}"
        kept = [FileLocation(letter * 64, f"uploads/{letter}", 5) for letter in letters]
        for file in kept:
            self.store.write(file.path, b"bytes")
        enqueue = self.engine.enqueue
        self.jobs.add(NewJob(job_id, "m", 1, Progress()), kept, enqueue)
        self.store.write(f"{job_folder(job_id)}/tasks.json", b"[]")
        return job_id

    def is_marked(self, job_id, attempt=0):
        return self.store.exists(stop_path(job_folder(job_id), attempt))

    def life(self, job_id, attempt=0):
        (life,) = self.engine.workflow_states([(job_id, attempt)])
        return life


@pytest.fixture
def service(tmp_path, whole_database, jobs, engine):
    return Service(open_storage((tmp_path / "store").as_uri()), whole_database, jobs, engine)


def cancel(service, job_id):
    return asyncio.run(service.control.cancel(job_id))


def fail(service, job_id):
    asyncio.run(service.control.fail(job_id, WHY))
    return service.jobs.get(job_id)


@pytest.mark.parametrize("is_running", [False, True])
@pytest.mark.parametrize(("end", "state"), [(cancel, "cancelled"), (fail, "failed")])
def test_end_stops_row_tasks_and_workflow(service, end, state, is_running):
    job_id, other = service.add(), service.add()
    if is_running:
        service.jobs.start(job_id)
    before = datetime.now(UTC)
    job = end(service, job_id)
    assert job == service.jobs.get(job_id)
    assert job.state == state
    assert job.error == (WHY if state == "failed" else None)
    kept_for = job.expires_at - before - timedelta(days=RETAIN_DAYS)
    assert timedelta(0) <= kept_for < timedelta(minutes=5)
    assert service.is_marked(job_id)
    assert service.life(job_id) == "ended"
    assert not service.is_marked(other)
    assert service.life(other) == "alive"


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_ended_job_stays_as_it_ended(service, state):
    job_id = service.add()
    service.jobs.start(job_id)
    if state == "succeeded":
        service.jobs.succeed(job_id, 7)
    else:
        {"failed": fail, "cancelled": cancel}[state](service, job_id)
    ended = service.jobs.get(job_id)
    with pytest.raises(Conflict, match=f"the job is {state}; only queued and running jobs can be"):
        cancel(service, job_id)
    assert fail(service, job_id) == ended
    assert service.is_marked(job_id) == (state != "succeeded")


def test_retry_goes_on_unhindered_by_the_marker_of_before(service):
    job_id = service.add()
    cancel(service, job_id)
    job = asyncio.run(service.control.retry(job_id, OwnerLimits()))
    assert (job.state, job.attempt, job.expires_at) == ("queued", 1, None)
    assert [service.life(job_id, attempt) for attempt in (0, 1)] == ["ended", "alive"]
    assert [service.is_marked(job_id, attempt) for attempt in (0, 1)] == [True, False]
    with pytest.raises(Conflict, match="the job is queued; only failed and cancelled"):
        asyncio.run(service.control.retry(job_id, OwnerLimits()))
    cancel(service, job_id)
    assert service.is_marked(job_id, 1)
    assert service.life(job_id, 1) == "ended"


def test_delete_removes_everything_but_what_others_need(service):
    first, second = service.add("a", "b"), service.add("b")
    cancel(service, first)
    asyncio.run(service.control.retry(first, OwnerLimits()))
    cancel(service, first)
    service.control.delete(first)
    assert service.jobs.folder_states([first, second]) == {second: ("queued", False)}
    assert [service.life(first, attempt) for attempt in (0, 1)] == ["none", "none"]
    assert set(service.store.list("")) == {"uploads/b", f"{job_folder(second)}/tasks.json"}
    cancel(service, second)
    service.control.delete(second)
    assert list(service.store.list("")) == []
    assert list(service.files.paths()) == []


def test_living_job_is_not_deleted(service):
    job_id = service.add("a")
    with pytest.raises(Conflict, match="the job is queued; cancel it, then it can be deleted"):
        service.control.delete(job_id)
    assert service.life(job_id) == "alive"
    assert set(service.store.list("")) == {"uploads/a", f"{job_folder(job_id)}/tasks.json"}


def test_no_such_job(service):
    for ask in (
        lambda: cancel(service, "nobody"),
        lambda: fail(service, "nobody"),
        lambda: asyncio.run(service.control.retry("nobody", OwnerLimits())),
        lambda: service.control.delete("nobody"),
    ):
        with pytest.raises(NotFound, match="no job 'nobody'"):
            ask()
