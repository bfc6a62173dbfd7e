"""Memory during uploads, and what happens when the disk is full."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from tests.examples import EXAMPLES

MIB = 1 << 20


def peak_bytes(pid):
    """Peak memory of the process since the last reset."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's clear_refs")
@pytest.mark.parametrize(
    "size", [1 << 28, *([pytest.param(4 << 30, marks=pytest.mark.heavy)] if EXAMPLES else [])]
)
def test_upload_is_streamed(embedded, size):
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()

    def body():
        for name, value in (("preset", b"w4"), ("model", struct.pack("<Q", len(header)) + header)):
            extra = b'; filename="m.safetensors"' if name == "model" else b""
            yield b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n' % (
                name.encode(),
                extra,
            )
            yield value
            if name == "preset":
                yield b"\r\n"
        block = bytes(MIB)
        for _ in range(size // MIB):
            yield block
        yield b"\r\n--b--\r\n"

    pid = embedded.program.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = peak_bytes(pid)
    answer = embedded.http.post(
        "/v1/plans", content=body(), headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["size_before_bytes"] == size
    assert peak_bytes(pid) - before < 100 * MIB
    assert embedded.leftovers() == []


@pytest.mark.scaled
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_no_process_of_the_service_loads_torch(server, model):
    """Only whoever asks for a form that needs it has a worker load it."""
    done = server.ended(post(server, load(model)).json()["id"])
    assert done["state"] == "succeeded"
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in server.processes()]
    assert any("numpy" in loaded for loaded in maps)
    assert not any("libtorch" in loaded for loaded in maps)


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


def post(server, weights):
    return server.http.post(
        "/v1/jobs", files={"model": ("m.safetensors", save(weights))}, data={"preset": "w4"}
    )


@pytest.mark.heavy
def test_full_disk_fails_the_upload_or_the_job_and_nothing_else(serve, small_disk, model):
    rng = np.random.default_rng(8)
    kept = {"table": rng.normal(size=10 * MIB).astype(np.float32)}
    with serve(small_disk / "data") as server:
        too_large = post(server, {"table": np.zeros(20 * MIB, np.float32)})
        assert too_large.status_code == 507, too_large.text
        assert too_large.json()["code"] == "storage_full"
        assert server.leftovers() == []

        weight = {"a.weight": rng.normal(size=(256, 256)).astype(np.float32)}
        accepted = post(server, kept | weight)
        assert accepted.status_code == 202, accepted.text
        job = server.ended(accepted.json()["id"])
        assert (job["state"], job["error"]["code"]) == ("failed", "storage_full"), job
        assert server.store.list(f"jobs/{job['id']}/artifact") == []
        assert server.http.get(f"/v1/jobs/{job['id']}/artifact").status_code == 409

        small = server.http.post(
            "/v1/jobs", files={"model": ("s.safetensors", model)}, data={"preset": "w4"}
        )
        assert server.ended(small.json()["id"])["state"] == "succeeded"
