"""Results of earlier jobs reused, on a real store and SQLite."""

import asyncio

import pytest
from sqlalchemy import text

from palettery.app.compression.job_folder import report_path, statistics_path
from palettery.app.compression.parts import read_parts
from palettery.app.compression.perform_task import perform
from palettery.app.compression.result_keys import request_sha256
from palettery.app.compression.statistics import find_statistics
from palettery.app.jobs import result_reuse as module
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.app.jobs.result_repository import ResultRepository
from palettery.app.jobs.result_reuse import ResultReuse
from palettery.app.storage.open import open_storage
from palettery.schemas.job_options import JobOptions
from palettery.schemas.jobs import Progress
from palettery.schemas.report import Report
from palettery.schemas.tasks import DigestTask
from tests.app.stored_job import StoredJob, config_of, draws, grouped
from tests.document_pools import PoolPerCall

W4 = config_of(n_bits=4, granularity=grouped(4))
W6 = config_of(n_bits=6, granularity=grouped(4))
ARRAYS = draws(7, a=(32, 16), b=(16, 24))
MOVED = {"extra.weight": draws(9, x=(12, 20))["x.weight"]} | {
    f"encoder.{name}": array for name, array in ARRAYS.items()
}


class Inline:
    """Workers in this process; remembers what they did."""

    def __init__(self):
        self.done = []

    async def run_tasks(self, tasks, on_done, share):
        for task in tasks:
            self.done.append((task, share))
            await on_done(task, perform(task))


class Service:
    """What reuse needs, and jobs that were done with it."""

    def __init__(self, store, database):
        self.store, self.workers, self.jobs = store, Inline(), 0
        self.records, self.results = JobRepository(database), ResultRepository(database)
        self.reuse = ResultReuse(self.results, self.records, store, PoolPerCall())

    def add(self, arrays, config, owner="local", **options):
        """A job with its row."""
        self.jobs += 1
        job_id = f"01890a5d-ac96-774b-bcce-{self.jobs:012x}"
        made = StoredJob(self.store, job_id, arrays, config, **options)
        digest = request_sha256(made.intake)
        new = NewJob(
            job_id, "m", 1, Progress(), owner, JobOptions(priority=3), request_sha256=digest
        )
        self.records.add(new)
        self.records.start(job_id)
        made.job_id = job_id
        return made

    def known(self, job):
        """The job's tasks, with what is known of them."""
        row = self.records.get(job.job_id)
        reading = self.reuse.with_results(row, job.tasks(), job.task(), self.workers)
        return asyncio.run(reading)

    def run(self, job):
        """Do a job as the steps do it; the slices that it took from others."""
        tasks = self.known(job)
        for task in tasks:
            perform(task)
        published = job.finish()
        self.records.succeed(job.job_id, published.size_bytes)
        self.reuse.remember(self.records.get(job.job_id), published.results)
        outcomes = [part.outcome for slices in parts_of(job) for part in slices]
        return {outcome.name for outcome in outcomes if outcome.reused}

    def copy_twin(self, job):
        row = self.records.get(job.job_id)
        return asyncio.run(self.reuse.copy_twin(row, job.prefix))


def parts_of(job):
    return read_parts(job.store, job.tasks()).values()


def names(tasks):
    return {item.name for task in tasks for item in task.slices if item.known}


@pytest.fixture
def service(tmp_path, database):
    return Service(open_storage((tmp_path / "store").as_uri()), database)


@pytest.fixture
def by_workers(monkeypatch):
    """No digest is so small that it is computed here."""
    monkeypatch.setattr(module, "LOCAL_DIGEST_BYTES", -1)


@pytest.mark.usefixtures("by_workers")
def test_same_file_is_known_by_where_its_bytes_lie(service):
    first, second = service.add(ARRAYS, W4), service.add(ARRAYS, W4)
    assert service.run(first) == set()
    assert service.run(second) == ARRAYS.keys()
    assert service.workers.done == [], "nothing was digested"
    assert second.artifact() == first.artifact()
    for name in ARRAYS:
        path = statistics_path(second.prefix)
        assert find_statistics(second.store, path, name) == find_statistics(
            first.store, statistics_path(first.prefix), name
        )


@pytest.mark.usefixtures("by_workers")
@pytest.mark.parametrize("task_bytes", [1, 1 << 20])
def test_same_bytes_are_known_in_another_file(service, monkeypatch, task_bytes):
    monkeypatch.setattr(module, "DIGEST_BYTES", task_bytes)
    first, second = service.add(ARRAYS, W4), service.add(MOVED, W4)
    service.run(first)
    assert service.run(second) == MOVED.keys() - {"extra.weight"}
    digested = service.workers.done
    assert {type(task) for task, _ in digested} == {DigestTask}
    assert {(share.owner, share.priority) for _, share in digested} == {("local", 3)}
    assert len(digested) == (2 if task_bytes == 1 else 1)
    seen = {item.name for task, _ in digested for item in task.slices}
    assert seen == MOVED.keys() - {"extra.weight"}, "no recipe was ever used for the other's shape"
    alone = service.add(MOVED, W4)
    for task in alone.tasks():
        perform(task)
    alone.finish()
    assert second.artifact() == alone.artifact()


def test_few_bytes_are_digested_here(service):
    service.run(service.add(ARRAYS, W4))
    assert service.run(service.add(MOVED, W4)) == MOVED.keys() - {"extra.weight"}
    assert service.workers.done == []


@pytest.mark.usefixtures("by_workers")
def test_nothing_is_digested_where_no_recipe_was_used(service):
    service.run(service.add(ARRAYS, W4))
    assert service.run(service.add(ARRAYS, W6)) == set()
    assert service.workers.done == []


@pytest.mark.usefixtures("by_workers")
def test_same_place_with_other_sensitivities_is_another_result(service):
    weighing = [
        {name: abs(draws(seed, x=array.shape)["x.weight"]) for name, array in ARRAYS.items()}
        for seed in (1, 2)
    ]
    first, second, third = (
        service.add(ARRAYS, W4, sensitivities=given) for given in (*weighing, weighing[0])
    )
    assert service.run(first) == set()
    assert service.run(second) == set()
    assert service.run(third) == ARRAYS.keys()
    assert third.artifact() == first.artifact() != second.artifact()


def test_results_that_are_gone_are_computed_again(service):
    first, second = service.add(ARRAYS, W4), service.add(ARRAYS, W4)
    service.run(first)
    tasks = service.known(second)
    assert names(tasks) == ARRAYS.keys()
    whole = first.artifact()
    service.store.delete_folder(first.prefix)
    for task in tasks:
        perform(task)
    assert not any(part.outcome.reused for slices in parts_of(second) for part in slices)
    second.finish()
    assert second.artifact() == whole


def test_results_go_with_their_job(service):
    first = service.add(ARRAYS, W4)
    service.run(first)
    service.records.delete(first.job_id)
    assert names(service.known(service.add(ARRAYS, W4))) == set()


def test_results_of_a_job_that_was_deleted_meanwhile_are_not_noted(service, database):
    job = service.add(ARRAYS, W4).palettize()
    results = job.finish().results
    row = service.records.get(job.job_id)
    service.records.cancel(job.job_id)
    service.records.delete(job.job_id)
    service.reuse.remember(row, results)
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM results")) == 0


def test_twin_is_taken_over(service):
    first, second = service.add(ARRAYS, W4), service.add(ARRAYS, W4)
    service.run(first)
    size = service.copy_twin(second).size_bytes
    statistics = [job.store.read(statistics_path(job.prefix)) for job in (first, second)]
    assert statistics[0] == statistics[1] != b""
    assert size == sum(map(len, first.artifact().values()))
    assert second.artifact() == first.artifact()
    report = Report.model_validate_json(bytes(service.store.read(report_path(second.prefix))))
    assert {tensor.name: tensor.reused for tensor in report.tensors} == dict.fromkeys(ARRAYS, True)
    service.store.delete_folder(first.prefix)
    assert second.artifact(), "it stands by itself"


@pytest.mark.parametrize("arrays", [ARRAYS, MOVED], ids=["same place", "same bytes"])
def test_other_owners_results_are_not_there(service, arrays):
    theirs = service.add(ARRAYS, W4, owner="them")
    service.run(theirs)
    ours = service.add(arrays, W4, owner="us")
    assert service.copy_twin(ours) is None
    assert service.run(ours) == set()
    again = service.add(ARRAYS, W4, owner="them")
    assert service.run(again) == ARRAYS.keys(), "ours did not take the place of theirs"
    assert service.copy_twin(service.add(ARRAYS, W4, owner="them")) is not None


def test_no_twin_and_a_twin_that_is_gone(service):
    first, second, other = (service.add(ARRAYS, config) for config in (W4, W4, W6))
    assert service.copy_twin(second) is None, "the first has not ended"
    service.run(first)
    assert service.copy_twin(other) is None
    service.store.delete_folder(first.prefix)
    assert service.copy_twin(second) is None
    assert not service.store.exists(report_path(second.prefix))


def test_result_that_was_damaged_since_is_computed_anew(service):
    first, second = service.add(ARRAYS, W4), service.add(ARRAYS, W4)
    service.run(first)
    sound = first.artifact()
    (name,) = sound
    path = f"{first.prefix}/artifact/{name}"
    stored = next(iter(service.known(second)[0].slices)).known
    damaged = bytearray(sound[name])
    damaged[stored.tensors["indices"].offset] ^= 1
    service.store.write(path, bytes(damaged))
    assert service.run(second) == ARRAYS.keys() - {stored.outcome.name}
    assert second.artifact() == sound
