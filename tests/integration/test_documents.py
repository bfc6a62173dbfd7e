"""Documents of users on a real server: read by other processes, which end with their clients."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from palettery.app.sandbox.document_pool import SLOW_NICENESS
from tests.integration.service import wait_until

pytestmark = pytest.mark.heavy

GROWS = json.dumps({"module_name_configs": {f"{number:x}": {} for number in range(40_000)}})
"""A config that takes a minute to validate, as all of it is defaults."""
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def alone(own):
    return own


def stat(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def readers(server):
    """Processes of the pool, the one that they are forked from among them: pid -> niceness."""
    results = {}
    for pid in server.program.pids():
        command, now = Path(f"/proc/{pid}/cmdline"), stat(pid)
        if now and now[0] != "Z" and b"forkserver" in command.read_bytes():
            results[pid] = int(now[16])
    return results


def busy(server):
    """Those of the pool that read large documents."""
    result = readers(server)
    usual = min(result.values(), default=0)
    return [pid for pid, niceness in result.items() if niceness >= usual + SLOW_NICENESS]


def test_reading_ends_when_its_client_leaves(alone):
    with httpx.Client(base_url=alone.http.base_url) as http, ThreadPoolExecutor(1) as sender:
        sending = sender.submit(
            http.post, "/v1/configs/validate", content=GROWS, headers=JSON, timeout=4
        )
        wait_until(lambda: busy(alone), "it is read by a process of its own")
        with pytest.raises(httpx.ReadTimeout):
            sending.result()
    wait_until(lambda: not busy(alone), "nobody reads it any more")
    assert alone.http.get("/readyz").is_success


@pytest.mark.heavy
def test_plans_of_others_are_made_while_large_documents_are_read(alone, model):
    with ThreadPoolExecutor(4) as senders, httpx.Client(base_url=alone.http.base_url) as http:
        sending = [
            senders.submit(
                http.post, "/v1/configs/validate", content=GROWS, headers=JSON, timeout=8
            )
            for _ in range(4)
        ]
        wait_until(lambda: busy(alone), "they are read")
        for _ in range(3):
            answer = alone.http.post(
                "/v1/plans", files={"model": ("m", model)}, data={"preset": "w4"}
            )
            assert answer.is_success
        assert busy(alone)
        for each in sending:
            assert isinstance(each.exception(), httpx.ReadTimeout)


def test_ready_tells_that_no_document_can_be_read(alone):
    stopped = set()

    def refusal():
        """A reader that replaces another may have started since."""
        for pid in set(readers(alone)) - stopped:
            os.kill(pid, signal.SIGSTOP)
            stopped.add(pid)
        answer = alone.http.get("/readyz")
        return answer if answer.status_code == 503 else None

    try:
        answer = wait_until(refusal, "all readers are stopped")
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/documents"]
        assert alone.http.get("/livez").is_success
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: alone.http.get("/readyz").is_success, "documents are read again")


def test_one_list_of_uploads_is_small_whatever_was_announced(alone):
    for session in range(3):
        files = [
            {"name": f"{n}-{'x' * 240}", "size_bytes": 1, "sha256": f"{session:032x}{n:032x}"}
            for n in range(1_000)
        ]
        assert alone.http.post("/v1/uploads", json={"files": files}).status_code == 201
    answer = alone.http.get("/v1/uploads?limit=1000")
    assert len(answer.content) < 3 * 1_000
    for shown in answer.json()["items"]:
        assert (shown["file_count"], shown["size_bytes"]) == (1_000, 1_000)
        assert shown["name"] == f"0-{'x' * 240}"
        whole = alone.http.get(shown["links"]["self"]).json()
        assert len(whole["files"]) == len(whole["parts"]) == 1_000


def test_announcement_that_is_wrong_everywhere_names_a_thousand_faults(alone):
    body = json.dumps({"files": [1] * 100_000})
    answer = alone.http.post("/v1/uploads", content=body, headers=JSON)
    assert answer.status_code == 422
    assert 1_000 <= len(answer.json()["errors"]) <= 1_001


@pytest.mark.heavy
def test_server_that_is_killed_leaves_no_process_of_the_pool(own):
    with ThreadPoolExecutor(1) as sender:
        sending = sender.submit(
            httpx.post,
            f"{own.http.base_url}/v1/configs/validate",
            content=GROWS,
            headers=JSON,
            timeout=60,
        )
        wait_until(lambda: busy(own), "it is read")
        own.program.kill_leader()
        wait_until(lambda: not readers(own), "all of the pool have ended")
        assert isinstance(sending.exception(), httpx.TransportError)
