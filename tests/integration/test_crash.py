"""What survives: kill -9, SIGTERM, cancel, and servers that must not start."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
from pathlib import Path

import httpx
import pytest
from safetensors import safe_open
from safetensors.numpy import load


def submit(server, body):
    answer = server.http.post(
        "/v1/jobs", files={"model": ("big.safetensors", body)}, data={"preset": "w4"}
    )
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def parts(server, job_id):
    return list((server.store / "jobs" / job_id / "parts").glob("*.safetensors"))


def some_parts(server, job_id):
    """The finished parts, once there are a few; the job must not be through yet."""
    server.wait_until(lambda: len(parts(server, job_id)) >= 3, "three parts are finished")
    job = server.http.get(f"/v1/jobs/{job_id}").json()
    assert job["state"] == "running"
    return parts(server, job_id)


def measured(parts):
    """Tensor -> kernel seconds, as measured by whoever wrote these parts."""
    found = {}
    for path in parts:
        with safe_open(path, "np") as part:
            for outcome in json.loads(part.get_tensor("outcomes").tobytes()):
                found[outcome["name"]] = outcome["seconds"]
    return found


def leftovers(server):
    """Files that were being written when something stopped, and uploads that no job needs."""
    with sqlite3.connect(server.data_dir / "palettery.db") as database:
        kept = {path for (path,) in database.execute("SELECT path FROM files")}
    files = [path for path in server.store.rglob("*") if path.is_file()]
    return [
        path
        for path in files
        if ".aside" in path.name
        or (path.parent.name == "uploads" and f"uploads/{path.name}" not in kept)
    ]


def test_killed_job_finishes_after_a_restart_and_keeps_its_parts(serve, tmp_path, large_model):
    with serve(tmp_path / "data") as first:
        job_id = submit(first, large_model)
        some_parts(first, job_id)
        first.kill_all()
        before = measured(parts(first, job_id))
    assert 3 <= len(before) < 24
    with serve(tmp_path / "data") as second:
        job = second.ended(job_id)
        assert job["state"] == "succeeded", job
        assert job["progress"]["bytes_done"] == job["progress"]["bytes_total"]
        report = second.http.get(job["links"]["report"]).json()
        after = {tensor["name"]: tensor["seconds"] for tensor in report["tensors"]}
        assert len(after) == 24
        # Clock readings are never the same twice: equal ones were read from the first run's parts.
        assert {name: after[name] for name in before} == before
        assert load(second.http.get(job["links"]["artifact"]).content)
        second.wait_until(lambda: parts(second, job_id) == [], "the parts are removed")
        assert leftovers(second) == []


def test_nothing_outlives_a_killed_server(serve, tmp_path, large_model):
    with serve(tmp_path / "data") as server:
        some_parts(server, submit(server, large_model))
        assert len(server.processes()) > 2
        server.process.kill()
        server.process.wait()
        server.wait_until(lambda: server.processes() == [], "workers follow their server", 30)


def test_killed_worker_costs_nothing_but_its_task(serve, tmp_path, large_model):
    with serve(tmp_path / "data") as server:
        job_id = submit(server, large_model)
        some_parts(server, job_id)
        busiest = max(
            (pid for pid in server.processes() if pid != server.process.pid), key=cpu_ticks
        )
        os.kill(busiest, 9)
        assert server.ended(job_id)["state"] == "succeeded"


def cpu_ticks(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11])


def stop_by_sigterm(server):
    assert server.stop() == 0


def stop_by_ctrl_c(server):
    """As a terminal does it: every process of the group gets the signal."""
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.process.wait(timeout=60) != 0


@pytest.mark.parametrize("stop", [stop_by_sigterm, stop_by_ctrl_c])
def test_stopped_server_leaves_no_process_and_goes_on_later(serve, tmp_path, large_model, stop):
    with serve(tmp_path / "data") as first:
        job_id = submit(first, large_model)
        some_parts(first, job_id)
        stop(first)
        first.wait_until(lambda: first.processes() == [], "every process has ended", 10)
        assert first.log.read_text().strip().splitlines()[1:] == []
    with serve(tmp_path / "data") as second:
        job = second.ended(job_id)
        assert job["state"] == "succeeded", job


def test_broken_upload_is_gone_after_a_restart(serve, tmp_path):
    start = b'--b\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n'
    with serve(tmp_path / "data") as first:
        address = (first.http.base_url.host, first.http.base_url.port)
        with socket.create_connection(address) as wire:
            head = (
                "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n"
                "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            )
            wire.sendall(head.encode() + start + b"x" * (20 << 20))
            first.wait_until(lambda: leftovers(first), "bytes of the upload lie in the store")
            first.kill_all()
    with serve(tmp_path / "data") as second:
        assert leftovers(second) == []


def test_cancelled_job_stops(serve, tmp_path, large_model):
    with serve(tmp_path / "data", PALETTERY_RUNNING_JOBS="1") as server:
        running, queued = submit(server, large_model), submit(server, large_model)
        some_parts(server, running)
        for job_id in (queued, running):
            answer = server.http.post(f"/v1/jobs/{job_id}/cancel")
            assert answer.status_code == 200, answer.text
            assert answer.json()["state"] == "cancelled"
            assert "cancel" not in answer.json()["links"]
            assert server.http.post(f"/v1/jobs/{job_id}/cancel").status_code == 409
            missing = server.http.get(f"/v1/jobs/{job_id}/artifact")
            assert missing.status_code == 409
            assert "cancelled" in missing.json()["detail"]
        assert server.ended(submit(server, large_model))["state"] == "succeeded"
        assert server.http.get(f"/v1/jobs/{running}").json()["state"] == "cancelled"
        assert len(parts(server, running)) < 24
        assert parts(server, queued) == []


def test_artifact_of_an_unfinished_job_says_the_state(serve, tmp_path, large_model):
    with serve(tmp_path / "data") as server:
        job_id = submit(server, large_model)
        some_parts(server, job_id)
        for what in ("artifact", "artifact/model.safetensors", "report"):
            answer = server.http.get(f"/v1/jobs/{job_id}/{what}")
            assert answer.status_code == 409
            assert answer.json()["code"] == "conflict"
            assert "running" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "{free}", "--data-dir", "{used}"], "another server"),
        (["--port", "{taken}", "--data-dir", "{fresh}"], "--port"),
        (["--port", "{free}", "--data-dir", "{fresh}", "--host", "10.0.0.1"], "ALLOW_REMOTE"),
    ],
)
def test_server_that_must_not_start_says_why(server, tmp_path, options, said):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    known = {
        "free": free,
        "taken": httpx.URL(server.http.base_url).port,
        "used": server.data_dir,
        "fresh": tmp_path / "data",
    }
    told = subprocess.run(
        [server.process.args[0], "serve", *(option.format(**known) for option in options)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 2, told
    assert said in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1
