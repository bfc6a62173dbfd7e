"""The disk is full while a part or the artifact is written; space is made, a retry succeeds."""

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from tests.faults.conftest import TASKS
from tests.faults.invariants import check_result, swept, watched
from tests.integration.embedded import Embedded, serving
from tests.integration.service import measured

pytestmark = pytest.mark.heavy

MIB = 1 << 20
FILLER = "filler"


@contextmanager
def small(disk):
    """A file system of 64 MiB in a folder."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root on Linux")
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@dataclass
class Full:
    """A service, and the small disk that has its store, or all that it has."""

    service: Embedded
    disk: Path


@pytest.fixture(scope="module")
def small_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    with small(folder / "disk") as disk:
        store = {"PALETTERY_STORAGE_URL": f"file://{disk}/store"}
        with serving(folder / "data", 1, **TASKS, **store) as service, swept(service):
            yield Full(service, disk)


@pytest.fixture(scope="module")
def on_small_disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with small(folder / "disk") as disk:
        (folder / "data").symlink_to(disk)
        with serving(folder / "data", 1, **TASKS) as service, swept(service):
            yield Full(service, disk)


@pytest.fixture
def small_data(on_small_disk):
    """The service at work, with room and a reserve."""
    service, disk = on_small_disk.service, on_small_disk.disk
    service.start()
    service.wait_until(lambda: has_reserve(disk), "there is a reserve")
    yield on_small_disk
    (disk / FILLER).unlink(missing_ok=True)
    service.start()


def fill(disk):
    """A file that takes all that is left."""
    place = disk / FILLER
    with place.open("ab", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return place


def retry(service, job_id):
    answer = service.http.post(f"/v1/jobs/{job_id}/retry")
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] in ("queued", "running")


def test_full_disk_while_parts_are_written(small_store, slow):
    """The job fails and says so; with space again, a retry goes on from the parts there are."""
    service = small_store.service
    with watched(service) as watch:
        job_id = watch.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        filler = fill(small_store.disk)
        job = service.ended(job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "storage_full"), job
        assert service.http.get("/readyz").is_success
        before = measured(service, job_id)
        assert len(before) >= 3
        filler.unlink()
        retry(service, job_id)
        check_result(service, job_id, slow.sha256, before)


def test_full_disk_while_the_artifact_is_written(small_store):
    """The job fails, with nothing of the artifact left; a retry after space was made succeeds."""
    rng = np.random.default_rng(8)
    stored = {"table": rng.normal(size=10 * MIB).astype(np.float32)}
    weights = stored | {"a.weight": rng.normal(size=(256, 256)).astype(np.float32)}
    service = small_store.service
    with watched(service) as watch:
        job_id = watch.submit(save(weights))
        job = service.ended(job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "storage_full"), job
        assert service.store.list(f"jobs/{job_id}/artifact") == []
        assert service.unfinished() == []
        assert service.http.get(f"/v1/jobs/{job_id}/artifact").status_code == 409
        subprocess.run(["mount", "-o", "remount,size=256m", small_store.disk], check=True)
        retry(service, job_id)
        service.succeeded(job_id)
        table = load(service.artifact(job_id))["table"]
        assert (table == stored["table"]).all()


def test_full_disk_below_the_database_too(small_data, slow):
    """Not even the job's failure can be noted; once there is space, the job ends."""
    service, log = small_data.service, small_data.service.programs["serve"].log
    with watched(service) as watch:
        job_id = watch.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        length_before = len(log.read_text())
        filler = fill(small_data.disk)
        service.wait_until(lambda: "full" in log.read_text()[length_before:], "the log tells of it")
        filler.unlink()
        if service.ended(job_id)["state"] == "failed":
            retry(service, job_id)
        check_result(service, job_id, slow.sha256)


def has_reserve(disk):
    return (disk / "reserve").exists()


def everything(service, body):
    """A job, a model, an upload that was begun, a config, and a job that waits; their addresses."""
    job_id = service.submit(body)
    service.succeeded(job_id)
    files = [{"name": "x.safetensors", "size_bytes": 9, "sha256": "a" * 64}]
    upload = service.http.post("/v1/uploads", json={"files": files}).json()["id"]
    service.http.put("/v1/configs/mine", json={"kmeans_palettization_config": {}})
    return [f"/v1/jobs/{job_id}", f"/v1/uploads/{upload}", "/v1/configs/mine"]


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "running"])
def test_full_disk_can_be_left_by_deleting(small_data, slow, is_killed):
    """The server starts on it, every deletion works, jobs run again, and the reserve comes back."""
    service = small_data.service
    addresses = everything(service, slow.body)
    filler = fill(small_data.disk)
    if is_killed:
        service.program.kill()
        service.start()
    for address in addresses:
        answer = service.http.delete(address)
        assert answer.status_code == 204, (address, answer.text)
        assert service.http.get(address).status_code == 404
    assert not has_reserve(small_data.disk)
    filler.unlink()
    service.wait_until(lambda: has_reserve(small_data.disk), "the reserve is there again")
    service.succeeded(service.submit(slow.body))


def test_job_on_a_full_disk_can_be_cancelled_and_deleted_after_a_crash(small_data, slow):
    """What runs on takes nothing of the room that the reserve gave."""
    service = small_data.service
    job_id = service.submit(slow.body, config=slow.config, reuse="false")
    service.some_parts(job_id)
    fill(small_data.disk)
    service.program.kill()
    service.start()
    for again in range(3):  # what it does meanwhile leaves room
        assert service.http.post("/v1/jobs", files={"model": ("m", slow.body)}).status_code in (
            507,
            503,
        ), again
    if service.job(job_id)["state"] in ("queued", "running"):
        cancelled = service.http.post(f"/v1/jobs/{job_id}/cancel")
        assert cancelled.status_code in (200, 202, 409), cancelled.text
    service.ended(job_id)
    answer = service.http.delete(f"/v1/jobs/{job_id}")
    assert answer.status_code == 204, answer.text
    assert service.store.list(f"jobs/{job_id}") == []
