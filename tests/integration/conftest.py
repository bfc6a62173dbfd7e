"""A real server on a real port: its own process group, so that all of it can be killed at once."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

DEADLINE_S = 300


def wait_until(is_so: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> object:
    """What `is_so` returns once it is true."""
    end = time.monotonic() + deadline_s
    while not (found := is_so()):
        assert time.monotonic() < end, f"{what}: not within {deadline_s} s"
        time.sleep(0.02)
    return found


@dataclass
class Server:
    """One run of `palettery serve`."""

    process: subprocess.Popen[bytes]
    http: httpx.Client
    data_dir: Path
    log: Path

    @property
    def store(self) -> Path:
        return self.data_dir / "store"

    def ended(self, job_id: str) -> dict:
        """The job, once it has ended."""

        def look() -> dict | None:
            job = self.http.get(f"/v1/jobs/{job_id}").json()
            return job if job["state"] in ("succeeded", "failed", "cancelled") else None

        return wait_until(look, f"job {job_id} ends")

    def processes(self) -> list[int]:
        """The server and every process it started."""
        return group(self.process.pid)

    wait_until = staticmethod(wait_until)

    def kill_all(self) -> None:
        """Kill -9 of the server and all it started, at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Ask the server to stop; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def group(leader: int) -> list[int]:
    """Live processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if stat[0] != "Z" and int(stat[2]) == leader:
                found.append(int(entry.name))
    return found


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def serve_command(data_dir: Path, port: int) -> list[str]:
    program = str(Path(sys.executable).with_name("palettery"))
    return [program, "serve", "--port", str(port), "--data-dir", str(data_dir), "--workers", "2"]


@contextmanager
def serving(data_dir: Path, **environment: str) -> Iterator[Server]:
    """A server, from ready until all of it is gone."""
    port = free_port()
    log = data_dir.with_name(f"{data_dir.name}-{port}.log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            serve_command(data_dir, port),
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
        server = Server(process, http, data_dir, log)
        try:
            wait_until(lambda: is_ready(server), "the server is ready")
            yield server
        finally:
            if process.poll() is None:
                server.stop()
            wait_until(lambda: not group(process.pid), "every process of the server is gone", 30)


def is_ready(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    try:
        return server.http.get("/readyz").is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def serve() -> Callable[..., AbstractContextManager[Server]]:
    """Start a server of the test's own."""
    return serving


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "encoder.0.weight": rng.normal(0, 0.02, (64, 96)).astype(np.float32),
        "encoder.0.bias": rng.normal(size=64).astype(np.float32),
        "encoder.1.weight": rng.normal(0, 0.02, (96, 64)).astype(np.float16),
    }


@pytest.fixture(scope="session")
def model(weights) -> bytes:
    """A small model as safetensors bytes."""
    return save(weights)


@pytest.fixture(scope="session")
def large_model() -> bytes:
    """A model of many tasks, for tests that interrupt a job."""
    rng = np.random.default_rng(6)
    return save(
        {
            f"layers.{number}.weight": rng.normal(size=(1024, 1024)).astype(np.float32)
            for number in range(24)
        }
    )
