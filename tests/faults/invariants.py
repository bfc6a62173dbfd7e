"""What holds whatever fails: every fault test ends with these checks."""

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import httpx

from palettery.app.storage.verified_reader import DIGESTS
from palettery.schemas.jobs import ENDED_STATES
from tests.integration.service import DEADLINE_S, Service, wait_until

SWEEPING = {"PALETTERY_SWEEP_EVERY_S": "1", "PALETTERY_ORPHAN_AGE_S": "1"}
RANK = {"queued": 0, "running": 1} | dict.fromkeys(ENDED_STATES, 2)
LOOK_EVERY_S = 0.2


class Watch:
    """Looks at jobs over and over, as an impatient user would, and notes what it sees."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.seen: dict[str, list[tuple[int, str]]] = {}
        """Job -> (attempt, state) as they were seen, each once."""
        self.wrong: list[str] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def submit(self, body: bytes, name: str = "big.safetensors", **fields: object) -> str:
        job_id = self.service.submit(body, name, **{"reuse": "false"} | fields)
        self.seen[job_id] = []
        return job_id

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def check(self) -> None:
        """States only moved forward, and no job ended in two ways."""
        assert self.wrong == []
        for job_id, states in self.seen.items():
            ranks = [(attempt, RANK[state]) for attempt, state in states]
            assert ranks == sorted(set(ranks)), (job_id, states)

    def _look_on(self) -> None:
        with httpx.Client(base_url=self.service.http.base_url, timeout=30) as http:
            while not self._is_over.wait(LOOK_EVERY_S):
                for job_id in list(self.seen):
                    with suppress(httpx.TransportError):
                        self._look(http, job_id)

    def _look(self, http: httpx.Client, job_id: str) -> None:
        artifact = http.head(f"/v1/jobs/{job_id}/artifact")
        answer = http.get(f"/v1/jobs/{job_id}")
        for status in (artifact.status_code, answer.status_code):
            if status not in (200, 409, 503):
                self.wrong.append(f"{status} for job {job_id}")
        if answer.status_code != 200:
            return
        now = answer.json()["attempt"], answer.json()["state"]
        if not self.seen[job_id] or self.seen[job_id][-1] != now:
            self.seen[job_id].append(now)
        if artifact.is_success and now[1] != "succeeded":
            self.wrong.append(f"an artifact of job {job_id}, which is {now[1]}")


@contextmanager
def watched(service: Service) -> Iterator[Watch]:
    """A block in which things fail; behind it all jobs end."""
    watch = Watch(service)
    watch.start()
    try:
        yield watch
        for job_id in watch.seen:
            service.ended(job_id)
    finally:
        watch.stop()
    watch.check()


@contextmanager
def swept(service: Service) -> Iterator[Service]:
    """A service whose jobs leave nothing without use, whatever happened to them."""
    yield service
    check_swept(service)


def check_swept(service: Service) -> None:
    """A sweep leaves nothing without use, and then everything stops in good order."""
    sweeper = service.programs.get("controller") or service.programs["serve"]
    assert sweeper.stop() == 0
    sweeper.start(**SWEEPING)
    wait_until(service.is_ready, "the sweep is at work")
    end = time.monotonic() + DEADLINE_S
    while (found := strays(service)) and time.monotonic() < end:
        time.sleep(0.1)
    assert found == []
    codes = service.stop()
    assert codes == dict.fromkeys(service.programs, 0)
    wait_until(lambda: not service.processes(), "every process has ended")


def job_ids(service: Service) -> set[str]:
    """Ids of all jobs."""
    page = service.http.get("/v1/jobs", params={"limit": 1000}).raise_for_status().json()
    return {job["id"] for job in page["items"]}


def strays(service: Service) -> list[str]:
    """Files that no job has a use for."""
    page = service.http.get("/v1/jobs", params={"limit": 1000}).raise_for_status().json()
    states = {job["id"]: job["state"] for job in page["items"]}
    kept = service.kept_uploads()
    found = [*service.unfinished(), *service.unused_digests()]
    for path in service.store.list(""):
        folder, name, *rest = path.split("/")
        if folder == "jobs":
            if is_stray(states.get(name), rest[0]):
                found.append(path)
        elif folder != DIGESTS and path not in kept:
            found.append(path)
    return found


def is_stray(state: str | None, what: str) -> bool:
    """Whether a job in this state has no use for a file of its folder."""
    if state == "succeeded":
        return what == "parts"
    return state is None or (
        state in ENDED_STATES and what in ("artifact", "exports", "report.json")
    )


def check_result(
    service: Service, job_id: str, sha256: str, before: Mapping[str, float] | None = None
) -> None:
    """The job succeeded, with the very bytes of a run that nothing disturbed.

    `before` are kernel seconds of tensors: clock readings are never the same twice, so equal ones
    were read from the parts that there were.
    """
    job = service.succeeded(job_id)
    assert job["progress"]["bytes_done"] == job["progress"]["bytes_total"]
    report = service.report(job_id)
    artifact = service.artifact(job_id)
    digest = hashlib.sha256(artifact).hexdigest()
    assert list(report["artifact_sha256"].values()) == [digest]
    assert digest == sha256
    after = {tensor["name"]: tensor["seconds"] for tensor in report["tensors"]}
    assert {name: after[name] for name in before or {}} == (before or {})


def outlast(seconds: float) -> None:
    """Let a fault last."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, "time passes", seconds + 1)
