"""What nobody needs goes and nothing else does, in a real folder and SQLite."""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from palettery.app.compression.job_folder import job_folder
from palettery.app.errors import Conflict, NotFound
from palettery.app.events.job_changes import JobChangeRepository
from palettery.app.files.removal import remove_unused_files
from palettery.app.files.repository import FileLocation, FileRepository
from palettery.app.jobs.expiry import JobExpiry
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.app.models.repository import ModelRepository
from palettery.app.storage.open import open_storage
from palettery.app.uploads.expiry import UploadExpiry
from palettery.app.uploads.repository import UploadRepository
from palettery.schemas.jobs import Progress

numbers = itertools.count()
DAY = timedelta(days=1)
PAST = datetime(2026, 1, 1, tzinfo=UTC)


class Service:
    """A store and rows, and a sweep that sees what is a day old."""

    def __init__(self, store, database):
        self.store = store
        self.records, self.files = JobRepository(database), FileRepository(database)
        self.changes = JobChangeRepository(database)
        self.deleted = []
        sessions, models = UploadRepository(database, DAY), ModelRepository(database, DAY)
        self.uploads = UploadExpiry(self.files, sessions, models, store, DAY)
        self.sweep = JobExpiry(
            self.records, self.changes, self.uploads, store, self.delete, DAY, 30 * DAY
        )

    def delete(self, job_id):
        """As `Control.delete`, without an engine."""
        self.records.delete(job_id)
        self.deleted.append(job_id)
        self.store.delete_folder(job_folder(job_id))
        remove_unused_files(self.files, self.store)

    def put(self, path, days=0):
        """An object that was written so long ago."""
        self.store.write(path, b"bytes")
        when = (datetime.now(UTC) - days * DAY).timestamp()
        os.utime(self.store.root / path, (when, when))
        return path

    def add(self, *letters, expires_at=None, days=0):
        """A job with files; one that expires has ended."""
        job_id = f"01890a5d-ac96-774b-bcce-{next(numbers):012x}"
        kept = [FileLocation(letter * 64, f"uploads/{letter}", 5) for letter in letters]
        for file in kept:
            self.put(file.path, days)
        self.records.add(NewJob(job_id, "m", 1, Progress()), kept)
        self.put(f"jobs/{job_id}/tasks.json", days)
        self.put(f"jobs/{job_id}/artifact/m", days)
        if expires_at is not None:
            self.records.cancel(job_id, expires_at)
        return job_id

    def left(self):
        return set(self.store.list(""))


@pytest.fixture
def service(tmp_path, database):
    return Service(open_storage((tmp_path / "store").as_uri()), database)


def folder(job_id):
    return {f"jobs/{job_id}/tasks.json", f"jobs/{job_id}/artifact/m"}


def test_orphans_go_once_they_are_old(service):
    young = {service.put(f"uploads/{name}", 0.9) for name in ("1", "2")}
    for name in ("3", "4"):
        service.put(f"uploads/{name}", 1.1)
    service.sweep.run()
    assert service.left() == young
    service.uploads.remove_orphans(timedelta(0))
    assert service.left() == set()


def test_files_of_jobs_stay_however_old(service):
    job_id = service.add("a", "b", days=400)
    service.sweep.run()
    service.uploads.remove_orphans(timedelta(0))
    assert service.left() == {"uploads/a", "uploads/b"} | folder(job_id)


def test_uploads_that_were_cut_off_go_once_they_are_old(service):
    """As a process leaves them that dies while it writes."""

    def cut_off():
        yield b"begun"
        (path,) = {each for each in service.store.root.rglob("*") if each.is_file()} - before
        saved.append((path, path.read_bytes()))
        raise KeyboardInterrupt

    saved = []
    for prefix in ("uploads/1", "jobs/1/parts/0"):
        before = {path for path in service.store.root.rglob("*") if path.is_file()}
        with pytest.raises(KeyboardInterrupt):
            service.store.write(prefix, cut_off())
    for age, is_left in ((0.9, True), (1.1, False)):
        for place, data in saved:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            when = (datetime.now(UTC) - age * DAY).timestamp()
            os.utime(place, (when, when))
        service.sweep.run()
        assert [place.exists() for place, _ in saved] == [is_left] * 2


def test_expired_jobs_go_with_all_that_is_theirs(service):
    expired = service.add("a", expires_at=PAST)
    kept = service.add("b", expires_at=datetime.now(UTC) + DAY)
    alive = service.add("c")
    service.sweep.run()
    assert service.deleted == [expired]
    states = service.records.folder_states([expired, kept, alive])
    assert states == {kept: ("cancelled", False), alive: ("queued", False)}
    assert service.left() == {"uploads/b", "uploads/c"} | folder(kept) | folder(alive)


def test_shared_files_stay_until_the_last_job_goes(service):
    jobs = [service.add("a", "b", expires_at=datetime.now(UTC) + DAY) for _ in range(3)]
    for number, job_id in enumerate(jobs):
        assert {"uploads/a", "uploads/b"} <= service.left(), number
        service.delete(job_id)
        service.sweep.run()
    assert service.left() == set()
    assert list(service.files.paths()) == []


def test_folders_of_jobs_that_are_no_more_go_once_they_are_old(service):
    job_id = service.add(days=2)
    service.put("jobs/01890a5d-ac96-774b-bcce-b302099a8057/parts/0", 1.1)
    young = service.put("jobs/01890a5d-ac96-774b-bcce-b302099a8058/parts/0", 0.9)
    service.sweep.run()
    assert service.left() == {young} | folder(job_id)


@pytest.mark.parametrize("days", [0.9, 1.1])
@pytest.mark.parametrize(
    ("state", "useless"),
    [
        ("succeeded", {"parts/0"}),
        ("cancelled", {"artifact/m", "report.json"}),
        ("running", set()),
    ],
)
def test_what_the_end_of_a_job_left_without_use_goes_once_it_is_old(service, state, useless, days):
    job_id = service.add(days=days)
    for name in ("parts/0", "report.json"):
        service.put(f"jobs/{job_id}/{name}", days)
    service.records.start(job_id)
    if state == "succeeded":
        service.records.succeed(job_id, 7)
    elif state == "cancelled":
        service.records.cancel(job_id)
    before = service.left()
    service.sweep.run()
    gone = {f"jobs/{job_id}/{name}" for name in useless} if days > 1 else set()
    assert before - service.left() == gone


def test_files_that_a_cut_off_delete_left_go(service):
    """Died between the row and the bytes: of the job, then of its file."""
    job_id = service.add("a", expires_at=PAST, days=2)
    service.records.delete(job_id)
    service.sweep.run()
    assert service.left() == set()
    again = service.add("a", days=2)
    service.records.cancel(again)
    service.records.delete(again)
    assert service.files.delete_if_unused("a" * 64)
    service.sweep.run()
    assert service.left() == set()


@pytest.mark.parametrize("kind", [Conflict, NotFound])
def test_job_that_was_retried_or_deleted_meanwhile_holds_nothing_up(service, kind):
    first, second = (service.add(expires_at=PAST) for _ in range(2))

    def delete(job_id):
        if job_id == first:
            raise kind("meanwhile")
        service.delete(job_id)

    JobExpiry(
        service.records, service.changes, service.uploads, service.store, delete, DAY, 30 * DAY
    ).run()
    assert service.deleted == [second]


def test_two_sweeps_at_once(service):
    for number in range(20):
        service.add("abc"[number % 3], expires_at=PAST)
        service.put(f"uploads/{number}", 2)
    with ThreadPoolExecutor(2) as pool:
        for swept in [pool.submit(service.sweep.run) for _ in range(2)]:
            swept.result()
    assert service.left() == set()
    assert service.records.counts() == {}


def test_scores_expire_by_their_age(service):
    recent, old = service.put("scores/a.json", days=29), service.put("scores/b.json", days=31)
    service.sweep.run()
    assert service.store.exists(recent)
    assert not service.store.exists(old)
