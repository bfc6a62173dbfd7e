"""Start, watch and stop real servers, each in a process group of its own."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from palettery.app.client import Client

SAMPLE_EVERY_S = 0.05
READY_WITHIN_S = 120


@dataclass
class Service:
    """A running service."""

    url: str
    store: Path
    """Folder of its object store."""
    leaders: list[int]
    """Process groups, one for each command of the service."""
    client: Client = field(init=False)
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = Client(self.url)
        self.http = httpx.Client(base_url=self.url, timeout=600)

    def processes(self) -> list[int]:
        """Every process of the service."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if self._is_ours(entry)]

    def workers(self) -> list[int]:
        """Processes that run tasks."""
        return [pid for pid in self.processes() if b"spawn_main" in _command(pid)]

    def _is_ours(self, entry: Path) -> bool:
        try:
            return entry.name.isdigit() and os.getpgid(int(entry.name)) in self.leaders
        except ProcessLookupError:
            return False


@contextmanager
def embedded(folder: Path, workers: int, **environment: str) -> Iterator[Service]:
    """Run `palettery serve` in one process group, on SQLite and a folder."""
    port, data_dir = free_port(), folder / "data"
    command = ["serve", "--port", port, "--data-dir", data_dir, "--workers", workers]
    with _run([command], folder, **environment) as leaders:
        service = Service(f"http://127.0.0.1:{port}", data_dir / "store", leaders)
        _wait_until(service.client.ready, service.url)
        yield service


@contextmanager
def distributed(folder: Path, workers: int) -> Iterator[Service]:
    """Run server, scheduler and single-thread workers that communicate over TCP."""
    port, scheduler_port, data_dir = free_port(), free_port(), folder / "data"
    commands = [
        ["scheduler", "--port", scheduler_port],
        ["worker", "--workers", workers],
        ["serve", "--port", port, "--data-dir", data_dir],
    ]
    environment = {
        "PALETTERY_SCHEDULER_URL": f"tcp://127.0.0.1:{scheduler_port}",
        "PALETTERY_TASK_THREADS": "1",
    }
    with _run(commands, folder, **environment) as leaders:
        service = Service(f"http://127.0.0.1:{port}", data_dir / "store", leaders)
        _wait_until(service.client.ready, service.url)
        yield service


@contextmanager
def bare(folder: Path) -> Iterator[httpx.Client]:
    """Serve the files of a folder by the reference app of `benchmarks.bare`."""
    port = free_port()
    arguments = [
        "benchmarks.bare:app",
        "--port",
        str(port),
        "--http",
        "httptools",
        "--no-access-log",
    ]
    program = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", *arguments, "--log-level", "warning"],
        env=os.environ | {"BARE_FOLDER": str(folder)},
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as http:
            _wait_until(lambda: _responds(http), "the bare app")
            yield http
    finally:
        program.terminate()
        program.wait()


@contextmanager
def peak_memory(service: Service) -> Iterator[list[int]]:
    """Measure the peak memory of all processes of the service; the list has the bytes at the end.

    Sums proportional set sizes, so memory that processes share counts once.
    """
    peak, stop = [0], threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_EVERY_S):
            peak[0] = max(peak[0], sum(map(pss_bytes, service.processes())))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        stop.set()
        sampler.join()


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _run(
    commands: Sequence[Sequence[object]], folder: Path, **environment: str
) -> Iterator[list[int]]:
    """Run commands of `palettery`, each as leader of a process group, and stop them at the end."""
    program = Path(sys.executable).with_name("palettery")
    running: list[subprocess.Popen[bytes]] = []
    try:
        with (folder / "log").open("wb") as log:
            running += [
                subprocess.Popen(
                    [program, *map(str, command)],
                    stdout=log,
                    stderr=log,
                    env=os.environ | environment,
                    start_new_session=True,
                )
                for command in commands
            ]
        yield [process.pid for process in running]
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(timeout=60)


def _wait_until(is_ready: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + READY_WITHIN_S
    while not is_ready():
        if time.monotonic() > end:
            raise SystemExit(f"{what} is not ready within {READY_WITHIN_S} s")
        time.sleep(0.05)


def _responds(http: httpx.Client) -> bool:
    try:
        http.get("/")
    except httpx.TransportError:
        return False
    return True


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def pss_bytes(pid: int) -> int:
    """Return the proportional set size (PSS) of a process; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
