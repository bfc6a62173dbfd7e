"""The service as its users and its supervisor see it: real processes, an address, a store."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
from safetensors.numpy import load

from palettery.app.database.engine import Database, open_database
from palettery.app.errors import ObjectMissing
from palettery.app.files.repository import FileRepository
from palettery.app.storage.base import Storage
from palettery.app.storage.verified_reader import DIGESTS
from palettery.app.uploads.parts import PARTS, parse_upload_id
from palettery.app.uploads.repository import UploadRepository
from palettery.schemas.jobs import ENDED_STATES

DEADLINE_S = 300
"""Of whatever should happen; on an overloaded machine, what takes seconds takes minutes."""


def _vectors(n_bits: int, dim: int) -> str:
    spec = {"op_state_spec": {"weight": {"n_bits": n_bits, "cluster_dim": dim}}}
    return json.dumps({"global_config": spec | {"enable_fast_kmeans_mode": False}})


SLOW = _vectors(8, 4)
"""A config that takes long on every machine, for jobs that never get to their end."""
SAID = (
    " is ready at ",
    "there are no keys",
    "workers is unavailable: there are no workers",
    "documents is unavailable: does not respond within",  # while both processors are busy
)
POLL_EVERY_S = 0.05
"""Rarely enough that those who look on leave the processor to what they look at."""
PALETTERY = str(Path(sys.executable).with_name("palettery"))


def wait_until(is_so: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> object:
    """What `is_so` returns once it is true."""
    end = time.monotonic() + deadline_s
    while not (result := is_so()):
        assert time.monotonic() < end, f"{what}: not within {deadline_s} s"
        time.sleep(POLL_EVERY_S)
    return result


@dataclass
class Program:
    """A process of the service with all that it starts: a process group of its own."""

    words: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    leaders: list[int] = field(default_factory=list)
    """Of every run so far."""
    process: "subprocess.Popen[bytes] | None" = None
    _told_before: int = 0
    """Bytes in the log when this run began."""

    def start(self, **environment: str) -> None:
        with self.log.open("ab") as out:
            self._told_before = out.tell()
            self.process = subprocess.Popen(
                [PALETTERY, *self.words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.all_environment() | environment,
                start_new_session=True,
            )
        self.leaders.append(self.process.pid)

    def all_environment(self) -> dict[str, str]:
        return os.environ | self.environment

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def pids(self) -> list[int]:
        """Live processes of every run so far."""
        return [pid for leader in self.leaders for pid in group(leader)]

    def is_ready(self) -> bool:
        """Return whether the log of this run says that it is ready."""
        self.check_running()
        return b" is ready at " in self.log.read_bytes()[self._told_before :]

    def check_running(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()

    def complaints(self) -> list[str]:
        """What it wrote beyond what a service says that nothing has happened to."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if not any(each in line for each in SAID)]

    def send(self, number: signal.Signals) -> None:
        """A signal to the process and all that it started."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """Kill -9 of the process and of all that it started, at once."""
        self.send(signal.SIGKILL)
        self.process.wait()

    def kill_leader(self) -> None:
        """Kill -9 of the process; whatever it started is on its own."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to stop, as a supervisor does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=DEADLINE_S)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class Service:
    """One service, embedded or scaled."""

    programs: dict[str, Program]
    http: httpx.Client
    store: Storage
    database_url: str
    unfinished: Callable[[], list[str]]
    """Files that are being written, or were when something stopped."""
    folder: Path
    """All that the service has on this machine lies in it."""

    wait_until = staticmethod(wait_until)

    def start(self, **environment: str) -> None:
        """Start what is not running, and wait until all of it works together."""
        for program in self.programs.values():
            if not program.is_running:
                program.start(**environment)
        wait_until(self.is_ready, "the service is ready")

    def stop(self) -> dict[str, int]:
        """Stop what is running, in good order; the exit codes."""
        running = {name: each for name, each in self.programs.items() if each.is_running}
        return {name: running[name].stop() for name in reversed(running)}

    def kill_all(self) -> None:
        """Kill -9 of every process at once."""
        running = [program for program in self.programs.values() if program.is_running]
        for program in running:
            program.send(signal.SIGKILL)
        for program in running:
            program.process.wait()

    def end(self) -> None:
        """Stop everything, and see that nothing is left running."""
        try:
            self.stop()
            wait_until(lambda: not self.processes(), "every process of the service is gone")
        finally:
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        return [pid for program in self.programs.values() for pid in program.pids()]

    def is_ready(self) -> bool:
        if not all(program.is_ready() for program in self.programs.values()):
            return False
        try:
            return self.http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def submit(self, body: bytes, name: str = "big.safetensors", **fields: object) -> str:
        """Have a model compressed; the job's id."""
        data = {key: str(value) for key, value in fields.items()}
        if not data.keys() & {"preset", "config"}:
            data["preset"] = "w4"
        answer = self.http.post("/v1/jobs", files={"model": (name, body)}, data=data)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def job(self, job_id: str) -> dict | None:
        """The job; None while nobody can tell."""
        try:
            answer = self.http.get(f"/v1/jobs/{job_id}")
        except httpx.TransportError:
            return None
        if answer.status_code == 503:
            return None
        assert answer.is_success, answer.text
        return answer.json()

    def ended(self, job_id: str) -> dict:
        """The job, once it has ended."""

        def look() -> dict | None:
            job = self.job(job_id)
            return job if job and job["state"] in ENDED_STATES else None

        return wait_until(look, f"job {job_id} ends")

    def succeeded(self, job_id: str) -> dict:
        job = self.ended(job_id)
        assert job["state"] == "succeeded", job
        return job

    def report(self, job_id: str) -> dict:
        return self.http.get(f"/v1/jobs/{job_id}/report").raise_for_status().json()

    def artifact(self, job_id: str) -> bytes:
        return self.http.get(f"/v1/jobs/{job_id}/artifact").raise_for_status().content

    def parts(self, job_id: str) -> list[str]:
        """Paths of a job's finished parts."""
        return self.store.list(f"jobs/{job_id}/parts")

    def some_parts(self, job_id: str, count: int = 3) -> list[str]:
        """The finished parts, once there are so many; the job must not be through yet."""
        wait_until(lambda: len(self.parts(job_id)) >= count, f"{count} parts are finished")
        assert self.job(job_id)["state"] == "running"
        return self.parts(job_id)

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        """The service's database, seen from outside."""
        database = open_database(self.database_url)
        try:
            yield database
        finally:
            database.close()

    def kept_uploads(self) -> set[str]:
        """Where the uploaded files lie that jobs and models need."""
        with self.database() as database:
            return set(FileRepository(database).paths())

    def unused_digests(self) -> list[str]:
        """Digests of uploaded files that nothing needs."""
        results = {path.rsplit("/", 1)[1]: path for path in self.store.list(DIGESTS)}
        with self.database() as database:
            needed = FileRepository(database).find(results)
        return [path for sha256, path in results.items() if sha256 not in needed]

    def open_parts(self) -> list[str]:
        """Where the parts lie of uploads that are open."""
        results = {path: parse_upload_id(path) for path in self.store.list(PARTS)}
        with self.database() as database:
            still_open = UploadRepository(database, timedelta(0)).open_ids(set(results.values()))
        return [path for path, upload_id in results.items() if upload_id in still_open]

    def leftovers(self) -> list[str]:
        """What an upload left that came to nothing."""
        needed = {*self.kept_uploads(), *self.open_parts()}
        cut_off = [path for path in self.unfinished() if "uploads/" in path]
        return [*cut_off, *(path for path in self.store.list("uploads") if path not in needed)]


def measured(service: Service, job_id: str) -> dict[str, float]:
    """Tensor -> kernel seconds, as noted in the parts that there are by whoever wrote them."""
    results = {}
    for path in service.parts(job_id):
        with contextlib.suppress(ObjectMissing):  # the job has succeeded meanwhile
            outcomes = load(bytes(service.store.read(path)))["outcomes"]
            results |= {each["name"]: each["seconds"] for each in json.loads(outcomes.tobytes())}
    return results


def group(leader: int) -> list[int]:
    """Live processes of a process group."""
    results = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if stat[0] != "Z" and int(stat[2]) == leader:
                results.append(int(entry.name))
    return results


def workers(service: Service) -> set[int]:
    """The processes that palettize."""
    found = set()
    for pid in service.processes():
        with contextlib.suppress(OSError):  # it may be gone by now
            if b"spawn" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def cpu_ticks(pid: int) -> int:
    """Processor time that a process has used."""
    stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(stat[11]) + int(stat[12])
