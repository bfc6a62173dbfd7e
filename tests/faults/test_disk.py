"""The disk is full while a part or the artifact is written; space is made, a retry succeeds."""

import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load, save

from tests.faults.invariants import check_result, watched
from tests.integration.service import measured

pytestmark = pytest.mark.heavy

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk):
    """A file that takes all that is left."""
    place = disk / "filler"
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


def test_full_disk_while_parts_are_written(start, small_disk, slow):
    """The job fails and says so; with space again, a retry goes on from the parts there are."""
    store = f"file://{small_disk}/store"
    with start("embedded", PALETTERY_STORAGE_URL=store) as service, watched(service) as watch:
        job_id = watch.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        filler = fill(small_disk)
        job = service.ended(job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "storage_full"), job
        assert service.http.get("/readyz").is_success
        before = measured(service, job_id)
        assert len(before) >= 3
        filler.unlink()
        retry(service, job_id)
        check_result(service, job_id, slow.sha256, before)


def test_full_disk_while_the_artifact_is_written(start, small_disk):
    """The job fails, with nothing of the artifact left; a retry after space was made succeeds."""
    rng = np.random.default_rng(8)
    held = {"table": rng.normal(size=10 * MIB).astype(np.float32)}
    weights = held | {"a.weight": rng.normal(size=(256, 256)).astype(np.float32)}
    store = f"file://{small_disk}/store"
    with start("embedded", PALETTERY_STORAGE_URL=store) as service, watched(service) as watch:
        job_id = watch.submit(save(weights))
        job = service.ended(job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "storage_full"), job
        assert service.store.list(f"jobs/{job_id}/artifact") == []
        assert service.unfinished() == []
        assert service.http.get(f"/v1/jobs/{job_id}/artifact").status_code == 409
        subprocess.run(["mount", "-o", "remount,size=256m", small_disk], check=True)
        retry(service, job_id)
        service.succeeded(job_id)
        table = load(service.artifact(job_id))["table"]
        assert (table == held["table"]).all()


def test_full_disk_below_the_database_too(start, small_disk, tmp_path, slow):
    """Not even the job's failure can be noted; once there is space, the job ends."""
    (tmp_path / "data").symlink_to(small_disk)
    with start("embedded") as service, watched(service) as watch:
        job_id = watch.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        filler = fill(small_disk)
        service.wait_until(
            lambda: "full" in service.programs["serve"].log.read_text(), "the log tells of it"
        )
        filler.unlink()
        if service.ended(job_id)["state"] == "failed":
            retry(service, job_id)
        check_result(service, job_id, slow.sha256)


@pytest.fixture
def small_data(small_disk, tmp_path):
    """All that a server has lies on a small disk."""
    (tmp_path / "data").symlink_to(small_disk)
    return small_disk


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
def test_full_disk_can_be_left_by_deleting(start, small_data, slow, is_killed):
    """The server starts on it, every deletion works, jobs run again, and the reserve comes back."""
    with start("embedded") as service:
        service.wait_until(lambda: has_reserve(small_data), "there is a reserve")
        addresses = everything(service, slow.body)
        filler = fill(small_data)
        if is_killed:
            service.program.kill()
            service.start()
        for address in addresses:
            answer = service.http.delete(address)
            assert answer.status_code == 204, (address, answer.text)
            assert service.http.get(address).status_code == 404
        assert not has_reserve(small_data)
        filler.unlink()
        service.wait_until(lambda: has_reserve(small_data), "the reserve is there again")
        service.succeeded(service.submit(slow.body))


def test_job_on_a_full_disk_can_be_cancelled_and_deleted_after_a_crash(start, small_data, slow):
    """What runs on takes nothing of the room that the reserve gave."""
    with start("embedded") as service:
        service.wait_until(lambda: has_reserve(small_data), "there is a reserve")
        job_id = service.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        fill(small_data)
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
