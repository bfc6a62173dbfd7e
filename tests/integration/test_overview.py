"""The service at a glance, and lists of jobs by state and model."""

import shutil

import pytest

from palettery.app.version import VERSION
from palettery.schemas.jobs import JobPage
from palettery.schemas.service import Depth, Service
from tests.integration.service import SLOW


def service_of(server) -> Service:
    answer = server.http.get("/v1/service")
    assert answer.status_code == 200, answer.text
    return Service.model_validate_json(answer.content)


def listed(http, **query) -> list[str]:
    """Ids of a whole list, page by page."""
    result, cursor = [], None
    while True:
        request = query | {"limit": 2} | ({"cursor": cursor} if cursor else {})
        answer = http.get("/v1/jobs", params=request)
        assert answer.status_code == 200, answer.text
        page = JobPage.model_validate_json(answer.content)
        result += [job.id for job in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return result


@pytest.mark.scaled
def test_what_runs_is_told(server):
    seen = service_of(server)
    assert seen.version == seen.software["palettery"] == VERSION
    assert {"python", "numpy", "torch", "plotly"} <= seen.software.keys()
    (controller,) = seen.controllers
    assert (controller.version, controller.workers) == (VERSION, 2)
    assert seen.workers.count == 2
    assert not seen.has_keys


def test_own_workers_are_told_one_by_one(embedded):
    seen = service_of(embedded)
    assert (seen.role, seen.database, seen.store.kind) == ("all", "sqlite", "file")
    assert seen.store.size_bytes == shutil.disk_usage(embedded.data_dir).total
    assert 0 < seen.store.free_bytes <= seen.store.size_bytes
    assert len(seen.workers.processes) == seen.workers.busy + seen.workers.idle == 2
    assert all(process.memory_limit_bytes is None for process in seen.workers.processes)

    def has_heard() -> bool:
        processes = service_of(embedded).workers.processes
        return all((each.memory_bytes or 0) > 1 << 20 for each in processes)

    embedded.wait_until(has_heard, "every worker has reported its memory")


@pytest.mark.heavy
def test_api_alone_knows_no_workers_but_how_many_there_are(cluster):
    seen = service_of(cluster)
    assert (seen.role, seen.database, seen.store.kind) == ("api", "postgresql", "s3")
    assert (seen.workers.busy, seen.workers.idle, seen.workers.processes) == (None, None, None)
    assert (seen.store.free_bytes, seen.store.size_bytes) == (None, None)
    assert "@" not in seen.model_dump_json()


def test_queue_is_told_for_the_owner_and_for_all(holder, slow_model):
    ours, theirs = holder("occupied"), holder("waiting", queued_jobs=7)
    job_id = ours.seen.submit(slow_model, config=SLOW, reuse="false")
    mine, other = service_of(ours.seen), service_of(theirs.seen)
    assert mine.queue.own.queued + mine.queue.own.running == 1
    assert other.queue.own == Depth()
    assert other.queue.all.queued + other.queue.all.running >= 1
    assert mine.has_keys
    assert (mine.used.queued_jobs, other.used.queued_jobs) == (1, 0)
    assert other.limits.queued_jobs == 7
    ours.http.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    assert service_of(ours.seen).queue.own == Depth()


def test_jobs_by_state_and_model(holder, model, slow_model):
    ours, theirs = holder("sorter"), holder("nobody")
    done = [ours.seen.submit(model) for _ in range(3)]
    stopped = [ours.seen.submit(slow_model, config=SLOW, reuse="false") for _ in range(3)]
    for job_id in stopped:
        ours.http.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    for job_id in done:
        ours.seen.succeeded(job_id)
    newest = [*stopped[::-1], *done[::-1]]
    assert listed(ours.http) == newest
    assert listed(ours.http, state="succeeded") == done[::-1]
    assert listed(ours.http, state=["cancelled"]) == stopped[::-1]
    assert listed(ours.http, state=["succeeded", "cancelled", "succeeded"]) == newest
    assert listed(ours.http, state=["queued", "running", "failed"]) == []
    made_of = {job["id"]: job["model_id"] for job in ours.http.get("/v1/jobs").json()["items"]}
    for model_id in set(made_of.values()) - {None}:
        same = [job_id for job_id in newest if made_of[job_id] == model_id]
        assert listed(ours.http, model_id=model_id) == same
    assert listed(ours.http, model_id="0" * 64) == []
    assert listed(theirs.http, state="succeeded") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("state", "done"), ("state", ""), ("model_id", "x"), ("model_id", "A" * 64)],
)
def test_filters_that_are_none_are_refused(embedded, name, value):
    answer = embedded.http.get("/v1/jobs", params={name: value})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith(f"/query/{name}")
