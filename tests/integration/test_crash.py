"""Uploads that a crash cuts off, and servers that must not start; more in `tests/faults`."""

import socket
import subprocess

import pytest

from tests.integration.service import DEADLINE_S, PALETTERY, SLOW
from tests.ports import free_port


@pytest.mark.heavy
def test_broken_upload_is_gone_after_a_restart(own):
    start = b'--b\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n'
    address = (own.http.base_url.host, own.http.base_url.port)
    with socket.create_connection(address) as wire:
        head = (
            "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        wire.sendall(head.encode() + start + b"x" * (20 << 20))
        own.wait_until(lambda: own.leftovers(), "bytes of the upload lie in the store")
        own.kill_all()
    own.start()
    assert own.leftovers() == []


def test_artifact_of_an_unfinished_job_says_the_state(embedded, slow_model):
    job_id = embedded.submit(slow_model, config=SLOW, reuse="false")
    embedded.wait_until(lambda: embedded.job(job_id)["state"] == "running", "the job runs")
    for what in ("artifact", "artifact/model.safetensors", "report"):
        answer = embedded.http.get(f"/v1/jobs/{job_id}/{what}")
        assert answer.status_code == 409
        assert answer.json()["code"] == "conflict"
        assert "running" in answer.json()["detail"]
    assert embedded.http.post(f"/v1/jobs/{job_id}/cancel").is_success


@pytest.mark.heavy
def test_server_on_a_folder_in_use_says_so(embedded):
    process = subprocess.run(
        [PALETTERY, "serve", "--port", str(free_port()), "--data-dir", embedded.data_dir],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert process.returncode == 2, process
    assert "another server" in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1
