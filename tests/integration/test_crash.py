"""What survives: kill -9, SIGTERM, cancel, and servers that must not start."""

import os
import signal
import socket
import subprocess

import pytest
from safetensors.numpy import load

from tests.integration.service import DEADLINE_S, LONG, PALETTERY, SLOW, cpu_ticks, measured
from tests.ports import free_port


@pytest.mark.heavy
def test_killed_job_finishes_after_a_restart_and_keeps_its_parts(serve, tmp_path, large_model):
    with serve(tmp_path / "data") as first:
        job_id = first.submit(large_model, config=LONG)
        first.some_parts(job_id)
        first.kill_all()
        before = measured(first, job_id)
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
        second.wait_until(lambda: second.parts(job_id) == [], "the parts are removed")
        assert second.leftovers() == []


@pytest.mark.heavy
def test_nothing_outlives_a_killed_server(serve, tmp_path, large_model):
    with serve(tmp_path / "data") as server:
        server.some_parts(server.submit(large_model, config=LONG))
        assert len(server.processes()) > 2
        server.program.kill_leader()
        server.wait_until(lambda: server.processes() == [], "workers follow their server")


@pytest.mark.heavy
def test_killed_worker_costs_nothing_but_its_task(serve, tmp_path, large_model):
    with serve(tmp_path / "data") as server:
        job_id = server.submit(large_model, config=LONG)
        server.some_parts(job_id)
        busiest = max(
            (pid for pid in server.processes() if pid != server.program.pid), key=cpu_ticks
        )
        os.kill(busiest, 9)
        assert server.ended(job_id)["state"] == "succeeded"


def stop_by_sigterm(server):
    assert server.program.stop() == 0


def stop_by_ctrl_c(server):
    """As a terminal does it: every process of the group gets the signal."""
    server.program.send(signal.SIGINT)
    server.program.process.wait(timeout=DEADLINE_S)


@pytest.mark.heavy
@pytest.mark.parametrize("stop", [stop_by_sigterm, stop_by_ctrl_c])
def test_stopped_server_leaves_no_process_and_goes_on_later(serve, tmp_path, large_model, stop):
    with serve(tmp_path / "data", PALETTERY_LOG_LEVEL="warning") as first:
        job_id = first.submit(large_model, config=LONG)
        first.some_parts(job_id)
        stop(first)
        first.wait_until(lambda: first.processes() == [], "every process has ended")
        assert first.program.complaints() == []
    with serve(tmp_path / "data") as second:
        job = second.ended(job_id)
        assert job["state"] == "succeeded", job


@pytest.mark.heavy
def test_broken_upload_is_gone_after_a_restart(serve, tmp_path):
    start = b'--b\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n'
    with serve(tmp_path / "data") as first:
        address = (first.http.base_url.host, first.http.base_url.port)
        with socket.create_connection(address) as wire:
            head = (
                "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n"
                "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            )
            wire.sendall(head.encode() + start + b"x" * (20 << 20))
            first.wait_until(lambda: first.leftovers(), "bytes of the upload lie in the store")
            first.kill_all()
    with serve(tmp_path / "data") as second:
        assert second.leftovers() == []


@pytest.mark.heavy
def test_cancelled_job_stops(serve, tmp_path, large_model):
    with serve(tmp_path / "data", PALETTERY_RUNNING_JOBS="1") as server:
        running, queued = (server.submit(large_model, config=SLOW) for _ in range(2))
        server.some_parts(running)
        for job_id in (queued, running):
            answer = server.http.post(f"/v1/jobs/{job_id}/cancel")
            assert answer.status_code == 200, answer.text
            assert answer.json()["state"] == "cancelled"
            assert "cancel" not in answer.json()["links"]
            assert server.http.post(f"/v1/jobs/{job_id}/cancel").status_code == 409
            missing = server.http.get(f"/v1/jobs/{job_id}/artifact")
            assert missing.status_code == 409
            assert "cancelled" in missing.json()["detail"]
        assert server.ended(server.submit(large_model))["state"] == "succeeded"
        assert server.http.get(f"/v1/jobs/{running}").json()["state"] == "cancelled"
        assert len(server.parts(running)) < 24
        assert server.parts(queued) == []


def test_artifact_of_an_unfinished_job_says_the_state(embedded, large_model):
    job_id = embedded.submit(large_model, config=SLOW, reuse="false")
    embedded.wait_until(lambda: embedded.job(job_id)["state"] == "running", "the job runs")
    for what in ("artifact", "artifact/model.safetensors", "report"):
        answer = embedded.http.get(f"/v1/jobs/{job_id}/{what}")
        assert answer.status_code == 409
        assert answer.json()["code"] == "conflict"
        assert "running" in answer.json()["detail"]
    assert embedded.http.post(f"/v1/jobs/{job_id}/cancel").is_success


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "{free}", "--data-dir", "{used}"], "another server"),
        (["--port", "{taken}", "--data-dir", "{fresh}"], "--port"),
        (["--port", "{free}", "--data-dir", "{fresh}", "--host", "0.0.0.0"], "there are no keys"),  # noqa: S104 - refused
    ],
)
def test_server_that_must_not_start_says_why(embedded, tmp_path, options, said):
    known = {
        "free": free_port(),
        "taken": embedded.http.base_url.port,
        "used": embedded.data_dir,
        "fresh": tmp_path / "data",
    }
    told = subprocess.run(
        [PALETTERY, "serve", *(option.format(**known) for option in options)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert told.returncode == 2, told
    assert said in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1
