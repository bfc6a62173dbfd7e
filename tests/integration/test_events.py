"""Events and logs over HTTP: nothing lost, nothing twice, over kills, stops and many readers."""

import asyncio
import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from palettery.schemas.events import LogPage
from palettery.schemas.jobs import Job, Progress
from tests.integration.service import SLOW, cpu_ticks, workers

READERS, JOBS = 30, 3
DEADLINE_S = 120


@dataclass
class Reader:
    """Read events as an EventSource does, reconnecting with the last id until a 204."""

    url: str
    events: list[tuple[int, str, dict]] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    streams: int = 0
    """Streams that were opened."""
    clean_ends: int = 0

    def read_all(self) -> None:
        end = time.monotonic() + DEADLINE_S
        with httpx.Client(timeout=DEADLINE_S) as http:
            while time.monotonic() < end:
                with suppress(httpx.TransportError):
                    if not self._read(http):
                        return
        raise AssertionError("the stream does not end")

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self.read_all)
        thread.start()
        return thread

    def _read(self, http: httpx.Client) -> bool:
        """Read one stream; whether there may be another."""
        headers = {"Last-Event-ID": str(self.events[-1][0])} if self.events else {}
        with http.stream("GET", self.url, headers=headers) as answer:
            if answer.status_code == 204:
                return False
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            self.streams += 1
            self.take(answer.iter_lines())
            self.clean_ends += 1
        return True

    def take(self, lines) -> None:
        document: dict[str, str] = {}
        for line in lines:
            if line:
                name, _, value = line.partition(": ")
                document[name] = value
                continue
            if "data" in document:
                self._note(document["event"], document.get("id"), json.loads(document["data"]))
            document = {}

    def _note(self, event, number, data) -> None:
        if event == "progress":
            assert number is None
            self.progress.append(Progress.model_validate(data))
        else:
            self.events.append((int(number), event, data))

    def ids(self) -> list[int]:
        return [number for number, _, _ in self.events]

    def states(self) -> list[str]:
        return [Job.model_validate(data).state for _, kind, data in self.events if kind == "state"]

    def messages(self) -> list[str]:
        return [data["message"] for _, kind, data in self.events if kind == "log"]


def reader_of(server, job_id) -> Reader:
    return Reader(f"{server.http.base_url}/v1/jobs/{job_id}/events")


@pytest.mark.scaled
def test_events_of_a_job_from_queued_to_succeeded(server, model):
    job_id = server.submit(model, reuse="false")
    reader = reader_of(server, job_id)
    reader.read_all()
    assert reader.streams == reader.clean_ends == 1
    assert reader.ids() == list(range(1, len(reader.events) + 1))
    assert reader.states() == ["queued", "running", "succeeded"]
    assert reader.events[-1][2] == server.job(job_id)
    output = " | ".join(reader.messages())
    first, last = "2 of 3 tensors to palettize", "the artifact was read back, and agrees"
    for message in (first, "started by controller", "cut into 1 task;", "1 tensor kept: ", last):
        assert message in output
    page = LogPage.model_validate_json(server.http.get(f"/v1/jobs/{job_id}/log").content)
    assert [line.message for line in page.items] == reader.messages()


@pytest.mark.scaled
def test_retry_is_seen_by_who_comes_back(server):
    rng = np.random.default_rng(0)
    body = save({f"{n}.weight": rng.normal(size=(1024, 1024)).astype("f4") for n in range(8)})
    job_id = server.submit(body, reuse="false")
    server.http.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    reader = reader_of(server, job_id)
    reader.read_all()
    assert reader.states()[-1] == "cancelled"
    server.http.post(f"/v1/jobs/{job_id}/retry").raise_for_status()
    reader.read_all()
    assert reader.ids() == list(range(1, len(reader.events) + 1))
    assert reader.states()[-3:] == ["queued", "running", "succeeded"]


def test_bad_requests_for_events(server, model):
    job_id = server.submit(model)
    for path in (f"/v1/jobs/{job_id[::-1]}/events", "/v1/jobs/x/log"):
        assert server.http.get(path).json()["code"] == "not_found"
    for name, value in (("after", "-1"), ("after", "x"), ("after", str(2**31)), ("limit", "0")):
        answer = server.http.get(f"/v1/jobs/{job_id}/log", params={name: value})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == f"/query/{name}"
    answer = server.http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "x"})
    assert answer.status_code == 422
    server.succeeded(job_id)
    beyond = server.http.get(f"/v1/jobs/{job_id}/events?after={2**31 - 1}")
    assert (beyond.status_code, beyond.content) == (204, b"")


@pytest.mark.heavy
def test_readers_come_back_over_a_kill_and_lose_nothing(own, many_slow_tensors):
    job_id = own.submit(many_slow_tensors, config=SLOW)
    readers = [reader_of(own, job_id) for _ in range(3)]
    threads = [reader.start() for reader in readers]
    own.some_parts(job_id, 3)
    own.kill_all()
    own.start()
    own.succeeded(job_id)
    for thread in threads:
        thread.join(DEADLINE_S)
    for reader in readers:
        assert reader.streams >= 2
        assert reader.ids() == list(range(1, len(reader.events) + 1))
        assert reader.states() == ["queued", "running", "succeeded"]
        assert any("resumed by" in message for message in reader.messages())
        assert reader.progress


@pytest.mark.heavy
def test_death_of_a_worker_is_in_the_log(own, many_slow_tensors):
    job_id = own.submit(many_slow_tensors, config=SLOW)
    own.some_parts(job_id)
    os.kill(max(workers(own), key=cpu_ticks), 9)
    own.succeeded(job_id)
    lines = own.http.get(f"/v1/jobs/{job_id}/log").json()["items"]
    died = [line for line in lines if "a worker died" in line["message"]]
    assert died
    assert {line["level"] for line in died} == {"warning"}
    assert all("palettizing " in line["message"] for line in died)


@pytest.mark.heavy
def test_stop_ends_streams_at_once_and_in_good_order(own, many_slow_tensors):
    reader = reader_of(own, own.submit(many_slow_tensors, config=SLOW))
    length_before = len(own.program.log.read_text())
    opened = threading.Event()
    ended = []

    def read() -> None:
        with httpx.stream("GET", reader.url, timeout=DEADLINE_S) as answer:
            opened.set()
            ended.extend(answer.iter_lines())

    thread = threading.Thread(target=read)
    thread.start()
    assert opened.wait(DEADLINE_S)
    assert own.program.stop() == 0
    thread.join(DEADLINE_S)
    assert ended, "it ended as a whole answer does"
    text = own.program.log.read_text()[length_before:]
    assert '"level": "ERROR"' not in text, "nothing had to be cut off"
    assert "Traceback" not in text


@pytest.fixture(scope="module")
def medium_model() -> bytes:
    """A model of a few tasks."""
    rng = np.random.default_rng(16)
    return save({f"{n}.weight": rng.normal(size=(512, 512)).astype("f4") for n in range(16)})


@pytest.mark.heavy
def test_many_readers_all_see_the_end(server, medium_model):
    jobs = [server.submit(medium_model, reuse="false") for _ in range(JOBS)]
    readers = [reader_of(server, jobs[n % JOBS]) for n in range(READERS)]

    async def read(http: httpx.AsyncClient, reader: Reader) -> None:
        async with http.stream("GET", reader.url) as answer:
            reader.take([line async for line in answer.aiter_lines()])

    async def read_all() -> None:
        limits = httpx.Limits(max_connections=READERS)
        async with httpx.AsyncClient(timeout=DEADLINE_S, limits=limits) as http:
            await asyncio.gather(*(read(http, reader) for reader in readers))

    asyncio.run(read_all())
    for reader in readers:
        assert reader.ids() == list(range(1, len(reader.events) + 1))
        assert reader.states() == ["queued", "running", "succeeded"]
