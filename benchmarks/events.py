"""Event streams of one server: the latency of the last event, and the cost of each stream.

Run as `python -m benchmarks.events [STREAMS]`. Needs Linux.
"""

import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from safetensors.numpy import save

from benchmarks.serving import Service, embedded, pss_bytes

STREAMS = 500
POLL_S = 3_600
"""The queue is polled so rarely that the job stays queued."""
GETS = 100
WORKERS = 1
"""On a machine of two cores, this leaves one to the server and the readers."""
WITHIN_S = 120.0


def main() -> None:
    """Measure, and print a table."""
    streams = int(sys.argv[1]) if sys.argv[1:] else STREAMS
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print("| what | measured |\n| --- | --- |")
    os.environ["PALETTERY_POLL_S"] = str(POLL_S)
    with (
        tempfile.TemporaryDirectory(prefix="palettery-bench-") as folder,
        embedded(Path(folder), WORKERS) as service,
    ):
        asyncio.run(measure(service, streams))


async def measure(service: Service, streams: int) -> None:
    """Open streams of a queued job, then cancel it."""
    server = service.leaders[0]
    job = await asyncio.to_thread(submit, service)
    before, gets_before = pss_bytes(server), await asyncio.to_thread(get_ms, service, job)
    started, used = time.perf_counter(), cpu_s(server)
    running = [Stream(service.url, job) for _ in range(streams)]
    tasks = [asyncio.create_task(stream.read()) for stream in running]
    await asyncio.gather(*(stream.opened.wait() for stream in running))
    opened_s = time.perf_counter() - started
    row(f"{streams} streams opened, all past events read", f"{opened_s:.2f} s")
    row(
        "processor time of the server per stream",
        f"{(cpu_s(server) - used) / streams * 1e3:.1f} ms",
    )
    row("memory of the server per stream", f"{(pss_bytes(server) - before) / streams / 1e3:.0f} kB")
    row("GET of the job, median, without streams", f"{gets_before:.1f} ms")
    row("the same, with streams open", f"{await asyncio.to_thread(get_ms, service, job):.1f} ms")
    cancelled_at = time.perf_counter()
    await asyncio.to_thread(service.http.post, f"/v1/jobs/{job}/cancel")
    await asyncio.gather(*tasks)
    latencies = sorted(stream.ended_at - cancelled_at for stream in running)
    row("cancellation to the first last event", f"{latencies[0] * 1e3:.0f} ms")
    row("to the median", f"{statistics.median(latencies) * 1e3:.0f} ms")
    row("to the last", f"{latencies[-1] * 1e3:.0f} ms")


class Stream:
    """A minimal reader, which looks only for the last event."""

    def __init__(self, url: str, job: str) -> None:
        self._address, self._job = urlsplit(url), job
        self.opened, self.ended_at = asyncio.Event(), 0.0

    async def read(self) -> None:
        """Read until the last state; `opened` is set at the first progress."""
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        head = f"GET /v1/jobs/{self._job}/events HTTP/1.1\r\nHost: {self._address.netloc}\r\n\r\n"
        writer.write(head.encode())
        async with asyncio.timeout(WITHIN_S):
            while line := await reader.readline():
                if line == b"event: progress\n":
                    self.opened.set()
                elif line.startswith(b"data: ") and b'"state":"cancelled"' in line:
                    self.ended_at = time.perf_counter()
                    break
        writer.close()


def submit(service: Service) -> str:
    """Submit a job that stays queued, and return its ID."""
    files = {"model": ("model.safetensors", save({"weight": np.zeros((64, 64), "f4")}))}
    response = service.http.post("/v1/jobs", files=files, data={"preset": "w4"})
    return str(response.raise_for_status().json()["id"])


def get_ms(service: Service, job: str) -> float:
    """Return the median latency of `GET` of the job, in milliseconds."""
    times = []
    for _ in range(GETS):
        started = time.perf_counter()
        service.http.get(f"/v1/jobs/{job}").raise_for_status()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, ticks)) / 100


def row(what: str, measured: str) -> None:
    """Print one row of the table."""
    print(f"| {what} | {measured} |", flush=True)


if __name__ == "__main__":
    main()
