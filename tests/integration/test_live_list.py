"""The caller's jobs as they change, over HTTP: nothing lost, nobody else's, over stops too."""

import json
import socket
import threading
from contextlib import contextmanager, suppress

import httpx
import pytest

from palettery.schemas.events import DeletedJob
from palettery.schemas.jobs import Job
from tests.integration.service import DEADLINE_S, SLOW, wait_until


class Watcher:
    """Does what a page does: reads, fetches the list at `open`, and comes back when it ends."""

    def __init__(self, http: httpx.Client) -> None:
        self._url, self._headers = str(http.base_url), http.headers
        self.jobs: dict[str, Job] = {}
        self.changes: list[Job] = []
        self.opened = self.clean_ends = 0
        self._socket: socket.socket | None = None
        self._is_over = threading.Event()

    def read_on(self) -> None:
        with httpx.Client(
            base_url=self._url, headers=self._headers, timeout=httpx.Timeout(DEADLINE_S, read=30)
        ) as http:
            while not self._is_over.is_set():
                with suppress(httpx.TransportError, httpx.HTTPStatusError):
                    self._read(http)
                self._is_over.wait(0.05)

    def end(self) -> None:
        self._is_over.set()
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self, http: httpx.Client) -> None:
        with http.stream("GET", "/v1/events") as answer:
            answer.raise_for_status()
            self._socket = answer.extensions["network_stream"].get_extra_info("socket")
            assert answer.headers["content-type"].startswith("text/event-stream")
            document: dict[str, str] = {}
            for line in answer.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    document[name] = value
                    continue
                if "data" in document:
                    self._take(http, document["event"], document["data"])
                document = {}
            self.clean_ends += 1

    def _take(self, http: httpx.Client, kind: str, data: str) -> None:
        if kind == "open":
            assert json.loads(data) == {}
            page = http.get("/v1/jobs", params={"limit": 1000}).raise_for_status().json()
            self.jobs = {item["id"]: Job.model_validate(item) for item in page["items"]}
            self.opened += 1
        elif kind == "gone":
            self.jobs.pop(DeletedJob.model_validate_json(data).id, None)
        else:
            assert kind == "job"
            job = Job.model_validate_json(data)
            self.jobs[job.id] = job
            self.changes.append(job)

    def states(self, job_id: str) -> list[str]:
        """Distinct states of a job, in the order of events."""
        return list(dict.fromkeys(job.state for job in self.changes if job.id == job_id))


@contextmanager
def watching(http: httpx.Client):
    watcher = Watcher(http)
    thread = threading.Thread(target=watcher.read_on)
    thread.start()
    try:
        wait_until(lambda: watcher.opened, "the stream is open")
        yield watcher
    finally:
        watcher.end()
        thread.join(DEADLINE_S)


@pytest.mark.scaled
@pytest.mark.heavy
def test_own_jobs_are_seen_as_they_change_and_nobody_elses(holder, model, large_model):
    ours, theirs = holder("watcher"), holder("watched")
    with watching(ours.http) as seen, watching(theirs.http) as other:
        large = ours.seen.submit(large_model, config=SLOW, reuse="false")
        wait_until(lambda: "running" in seen.states(large), "it is seen to run")
        wait_until(
            lambda: any(job.id == large and job.progress.tensors_done for job in seen.changes),
            "its progress is seen",
        )
        ours.http.post(f"/v1/jobs/{large}/cancel").raise_for_status()
        small = ours.seen.submit(model)
        done = ours.seen.succeeded(small)
        wait_until(lambda: seen.jobs.get(small) == Job.model_validate(done), "its end is seen")
        wait_until(lambda: seen.jobs[large].state == "cancelled", "the cancel is seen")
        ours.http.delete(f"/v1/jobs/{small}").raise_for_status()
        wait_until(lambda: small not in seen.jobs, "it is seen to be gone")
        assert seen.jobs.keys() == {large}
        mine = theirs.seen.submit(model)
        theirs.seen.succeeded(mine)
        wait_until(lambda: "succeeded" in other.states(mine), "the other one sees its own")
        assert {job.owner for job in seen.changes} == {"watcher"}
        assert {job.owner for job in other.changes} == {"watched"}
        assert seen.opened == other.opened == 1


@pytest.mark.heavy
def test_key_is_needed(keyed):
    answer = httpx.get(f"{keyed.http.base_url}/v1/events")
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthenticated"


@pytest.mark.heavy
def test_page_is_right_again_after_kills_and_stops(own, model, many_slow_tensors):
    length_before = len(own.program.log.read_text())
    gone = own.submit(model)
    own.succeeded(gone)
    job_id = own.submit(many_slow_tensors, config=SLOW)
    with watching(own.http) as seen:
        own.some_parts(job_id, 2)
        own.kill_all()
        own.start()
        wait_until(lambda: seen.opened >= 2, "it has come back")
        assert own.program.stop() == 0
        own.start()
        wait_until(lambda: seen.opened >= 3, "it has come back again")
        assert seen.clean_ends, "a stop ends it as a whole answer does"
        own.http.delete(f"/v1/jobs/{gone}").raise_for_status()
        done = Job.model_validate(own.succeeded(job_id))
        wait_until(lambda: seen.jobs == {job_id: done}, "the page shows what there is")
    text = own.program.log.read_text()[length_before:]
    assert '"level": "ERROR"' not in text
    assert "Traceback" not in text
