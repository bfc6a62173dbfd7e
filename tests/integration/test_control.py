"""Job control on real services: cancel, retry, priority, deadline, delete, expiry, limits."""

import time

import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy import text

from palettery.schemas.problem import Problem
from tests.integration.service import SLOW, cpu_ticks, measured

TICK_S = 0.01
FINE_S = 0.2
"""Processor time that a process may use in a second and count as idle."""


@pytest.fixture
def service(one_at_a_time):
    return one_at_a_time


@pytest.fixture(scope="module")
def long_model() -> bytes:
    """Two tensors of 64 MiB, each one task."""
    rng = np.random.default_rng(3)
    block = rng.normal(size=(1024, 4096)).astype(np.float32)
    return save({f"{name}.weight": np.concatenate([block] * 4) for name in "ab"})


@pytest.fixture(scope="module")
def medium_model() -> bytes:
    """Twelve tensors of 1 MiB."""
    rng = np.random.default_rng(4)
    return save({f"{n}.weight": rng.normal(size=(512, 512)).astype(np.float32) for n in range(12)})


def change(server, job_id, what):
    return server.http.post(f"/v1/jobs/{job_id}/{what}")


def is_busy(service):
    """Whether any process of the service burns processor time, over half a second."""
    before = {pid: cpu_ticks(pid) for pid in service.processes()}
    end = time.monotonic() + 0.5
    service.wait_until(lambda: time.monotonic() > end, "time passes")
    return any(
        (cpu_ticks(pid) - ticks) * TICK_S > FINE_S
        for pid, ticks in before.items()
        if pid in service.processes()
    )


def is_being_worked_on(service, job_id):
    service.wait_until(lambda: service.job(job_id)["state"] == "running", "the job runs")
    service.wait_until(lambda: is_busy(service), "it is being worked on")


def refused(answer, status, message):
    outcome = Problem.model_validate_json(answer.content)
    assert (answer.status_code, outcome.status) == (status, status), answer.text
    assert message in outcome.detail


@pytest.mark.scaled
@pytest.mark.heavy
def test_cancelled_work_stops_and_the_next_job_runs(service, long_model, model):
    job_id = service.submit(long_model, config=SLOW)
    is_being_worked_on(service, job_id)
    assert change(service, job_id, "cancel").json()["state"] == "cancelled"
    service.wait_until(lambda: not is_busy(service), "all work has stopped")
    assert service.parts(job_id) == [], "it stopped before it was through"
    refused(change(service, job_id, "cancel"), 409, "the job is cancelled")
    service.succeeded(service.submit(model))
    assert service.job(job_id)["state"] == "cancelled"


@pytest.mark.heavy
def test_deadline_ends_the_job_and_its_tasks(service, long_model):
    job_id = service.submit(long_model, config=SLOW, deadline_s=8)
    assert service.job(job_id)["deadline_at"]
    service.wait_until(lambda: service.job(job_id)["started_at"], "the job runs")
    job = service.ended(job_id)
    assert (job["state"], job["error"]["code"]) == ("failed", "deadline_exceeded"), job
    service.wait_until(lambda: not is_busy(service), "all work has stopped")
    retried = change(service, job_id, "retry").json()
    assert (retried["deadline_at"], retried["attempt"]) == (None, 1)
    assert change(service, job_id, "cancel").json()["state"] == "cancelled"


@pytest.mark.scaled
@pytest.mark.heavy
def test_retry_goes_on_from_the_parts_there_are(service, medium_model):
    job_id = service.submit(medium_model, config=SLOW)
    service.some_parts(job_id)
    refused(change(service, job_id, "retry"), 409, "the job is running")
    refused(service.http.delete(f"/v1/jobs/{job_id}"), 409, "cancel it")
    assert change(service, job_id, "cancel").status_code == 200
    before = measured(service, job_id)
    assert len(before) >= 3
    answer = change(service, job_id, "retry")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job_id}"
    assert answer.json()["attempt"] == 1
    service.succeeded(job_id)
    after = {tensor["name"]: tensor["seconds"] for tensor in service.report(job_id)["tensors"]}
    assert {name: after[name] for name in before} == before
    refused(change(service, job_id, "retry"), 409, "the job is succeeded")
    refused(change(service, job_id, "cancel"), 409, "the job is succeeded")


@pytest.mark.scaled
@pytest.mark.heavy
def test_urgent_job_overtakes_those_that_wait(service, medium_model, model):
    first = service.submit(medium_model, config=SLOW)
    service.wait_until(lambda: service.job(first)["state"] == "running", "the first runs")
    patient = [service.submit(model, priority=1) for _ in range(4)]
    urgent = service.submit(model, priority=9)
    assert change(service, first, "cancel").is_success
    jobs = [service.succeeded(job_id) for job_id in [*patient, urgent]]
    assert [job["priority"] for job in jobs] == [1, 1, 1, 1, 9]
    starts = [job["started_at"] for job in jobs]
    assert min(starts) == starts[-1]
    assert starts[:-1] == sorted(starts[:-1]), "equals go in their order"


@pytest.mark.parametrize(
    "field",
    [
        {"priority": 10},
        {"priority": -1},
        {"priority": "high"},
        {"deadline_s": 0},
        {"deadline_s": 2_592_001},
        {"deadline_s": "soon"},
        {"reuse": "maybe"},
    ],
    ids=str,
)
def test_wish_out_of_range_is_refused(server, model, field):
    answer = server.http.post(
        "/v1/jobs", files={"model": ("m.safetensors", model)}, data={"preset": "w4"} | field
    )
    refused(answer, 422, repr(str(next(iter(field.values())))))
    assert server.leftovers() == []


@pytest.mark.scaled
def test_deleted_job_takes_its_bytes_along(server, model):
    body = save({"own.weight": np.full((64, 64), 0.5, np.float32)})
    job_id, beside = server.submit(body), server.submit(model)
    server.succeeded(job_id)
    server.succeeded(beside)
    kept = server.kept_uploads()
    assert server.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert server.http.get(f"/v1/jobs/{job_id}").status_code == 404
    assert server.http.delete(f"/v1/jobs/{job_id}").status_code == 404
    assert server.store.list(f"jobs/{job_id}") == []
    assert len(kept - server.kept_uploads()) == 1
    assert server.leftovers() == []
    assert server.succeeded(beside)["links"]["artifact"]


def test_upload_of_two_jobs_stays_until_the_last_is_deleted(server):
    body = save({"shared.weight": np.full((64, 64), 0.25, np.float32)})
    before = server.kept_uploads()
    first, second = server.submit(body), server.submit(body, preset="w8")
    server.succeeded(first)
    (path,) = server.kept_uploads() - before
    assert server.http.delete(f"/v1/jobs/{first}").status_code == 204
    assert server.store.exists(path)
    server.succeeded(second)
    assert server.artifact(second)
    assert server.http.delete(f"/v1/jobs/{second}").status_code == 204
    assert not server.store.exists(path)
    assert server.kept_uploads() == before


@pytest.mark.heavy
def test_expired_job_is_swept(service):
    body = save({"own.weight": np.full((64, 64), 0.125, np.float32)})
    before = service.kept_uploads()
    job_id = service.submit(body)
    service.succeeded(job_id)
    (path,) = service.kept_uploads() - before
    with service.database() as database, database.transaction() as session:
        past = {"id": job_id, "past": "2026-01-01 00:00:00"}
        session.execute(text("UPDATE jobs SET expires_at = :past WHERE id = :id"), past)
    service.wait_until(
        lambda: service.http.get(f"/v1/jobs/{job_id}").status_code == 404, "the job expires"
    )
    service.wait_until(
        lambda: not service.store.list(f"jobs/{job_id}") and not service.store.exists(path),
        "its bytes are gone",
    )
    assert service.kept_uploads() == before


@pytest.mark.heavy
def test_cancelled_jobs_have_no_artifact(service, medium_model):
    running, queued = (service.submit(medium_model, config=SLOW) for _ in range(2))
    service.some_parts(running)
    for job_id in (queued, running):
        answer = change(service, job_id, "cancel")
        assert answer.status_code == 200, answer.text
        assert answer.json()["state"] == "cancelled"
        assert "cancel" not in answer.json()["links"]
        missing = service.http.get(f"/v1/jobs/{job_id}/artifact")
        refused(missing, 409, "cancelled")
    assert len(service.parts(running)) < 12
    assert service.parts(queued) == []
