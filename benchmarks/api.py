"""Latency of requests while the server is busy with others.

Run as `python -m benchmarks.api`. Needs Linux.
"""

import asyncio
import gc
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
from safetensors.numpy import save

from benchmarks.service import VECTOR, row
from benchmarks.serving import bare, embedded

WORKERS = 1
"""On a machine of two cores, this leaves one to the server."""
POLL_EVERY_S = 0.002
IDLE_S = 5.0
SUBMISSIONS = 3
DOCUMENT_BYTES = 5_000_000
GOAL_S = 0.050
REQUESTS_A_SECOND, REQUESTS, CONNECTIONS = 200, 2_000, 16
P99_GOAL_S = 0.020
_SPAWNED = multiprocessing.get_context("spawn")


def main() -> None:
    """Measure, and print each row as it is known."""
    print("| what | measured | ratio | goal |\n| --- | --- | --- | --- |")
    for measure in (polled_job, large_configs):
        with tempfile.TemporaryDirectory(prefix="palettery-bench-") as folder:
            measure(Path(folder))


def polled_job(folder: Path) -> None:
    """Latency of `GET` of a running job, at 200 requests a second.

    Another process sends requests on a fixed schedule and measures from the scheduled times, so
    that a late response counts against those behind it, too.
    """
    rng = np.random.default_rng(0)
    model = save({f"{n}.weight": rng.standard_normal((4096, 4096), np.float32) for n in range(4)})
    with embedded(folder, WORKERS, PALETTERY_TASK_THREADS="1") as service:  # on the other core
        response = service.http.post(
            "/v1/jobs", files={"model": ("m.safetensors", model)}, data={"config": VECTOR}
        )
        path = f"/v1/jobs/{response.raise_for_status().json()['id']}"
        while service.http.get(path).json()["state"] != "running":
            time.sleep(0.01)
        with ProcessPoolExecutor(1, _SPAWNED) as sender:
            latencies = sender.submit(_latencies, service.url, path).result()
        state = service.http.post(f"{path}/cancel").raise_for_status().json()["state"]
        assert state == "cancelled"  # noqa: S101 - it ran all the time
    ranked = sorted(latencies)
    p50, p99 = (ranked[int(len(ranked) * part)] for part in (0.5, 0.99))
    shown = f"{p50 * 1e3:.1f} ms; p99 {p99 * 1e3:.1f} ms; worst {ranked[-1] * 1e3:.1f} ms"
    row("GET of a running job, 200 a second", shown, p99 / P99_GOAL_S, f"p99 {P99_GOAL_S:.3f} s")


def _latencies(url: str, path: str) -> list[float]:
    """Return the seconds from the scheduled time of each request to its response."""
    gc.freeze()
    return asyncio.run(_send_on_schedule(urlsplit(url).netloc, path))


async def _send_on_schedule(address: str, path: str) -> list[float]:
    """Send requests over a few raw connections, since this process shares the server's core."""
    host, _, port = address.partition(":")
    request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncio.open_connection(host, int(port)))
    latencies: list[float] = []

    async def send(due: float) -> None:
        reader, writer = connection = await free.get()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")  # noqa: S101
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r")[0]))
        latencies.append(time.perf_counter() - due)
        free.put_nowait(connection)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(REQUESTS):
            due = start + number / REQUESTS_A_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(send(due))
    return latencies


def large_configs(folder: Path) -> None:
    """Latency of `GET /livez` while configs of 5 MB are submitted, against that of an idle server.

    Every request is followed by one to a bare, otherwise idle server, whose latency is that of the
    machine. The model is small and only the last rule matches, so the work is nearly all planning.
    """
    model = save({"encoder.weight": np.random.default_rng(0).normal(size=(64, 64)).astype("f4")})
    document = _document()
    (folder / "small").write_bytes(b"{}")
    with embedded(folder, WORKERS) as service, bare(folder) as peer:
        submit: dict[str, Callable[[], httpx.Response]] = {
            "as a form": lambda: service.http.post(
                "/v1/jobs", files={"model": ("m.safetensors", model)}, data={"config": document}
            ),
            "as a named config": lambda: service.http.put(
                "/v1/configs/large", content=document, headers={"Content-Type": "application/json"}
            ),
        }
        urls = (f"{service.url}/livez", str(peer.base_url.join("/small")))
        for (
            send
        ) in submit.values():  # the first one starts the process that later ones are forked from
            send().raise_for_status()
        with _polled(*urls) as idle:
            time.sleep(IDLE_S)
        _print_latencies("idle", idle)
        for how, send in submit.items():
            times = []
            with _polled(*urls) as busy:
                for _ in range(SUBMISSIONS):
                    started = time.perf_counter()
                    send().raise_for_status()
                    times.append(time.perf_counter() - started)
            size = f"{len(document) / 1e6:.1f} MB {how}"
            _print_latencies(f"while {size} is sent", busy, GOAL_S)
            row(f"{size}, request to response, median", f"{statistics.median(times):.1f} s")


@contextmanager
def _polled(*urls: str) -> Iterator[list[list[float]]]:
    """Poll the URLs in turns; the list has the latencies of each, in seconds, at the end.

    Another process polls, so that nothing but the servers delays it.
    """
    latencies: list[list[float]] = []
    ours, theirs = multiprocessing.Pipe()
    polling = _SPAWNED.Process(target=_poll, args=(urls, theirs))
    polling.start()
    ours.recv()
    try:
        yield latencies
    finally:
        ours.send(None)
        latencies += ours.recv()
        polling.join()


def _poll(urls: Sequence[str], caller: Connection) -> None:
    latencies: list[list[float]] = [[] for _ in urls]
    with httpx.Client() as client:
        for url in urls:
            client.get(url).raise_for_status()
        gc.freeze()  # else a garbage collection here would add 50 ms to a latency
        caller.send(None)
        while not caller.poll(POLL_EVERY_S):
            for url, times in zip(urls, latencies, strict=True):
                started = time.perf_counter()
                client.get(url).raise_for_status()
                times.append(time.perf_counter() - started)
    caller.send(latencies)


def _print_latencies(when: str, latencies: list[list[float]], goal: float | None = None) -> None:
    """Print latencies of the service, and of the bare server at the same time."""
    ours, bare_server = latencies
    row(f"a file of 2 bytes from a bare server, {when}", _summary(bare_server))
    if goal is None:
        row(f"GET /livez, {when}", _summary(ours))
    else:
        row(f"GET /livez, {when}", _summary(ours), max(ours) / goal, f"worst {goal * 1e3:.0f} ms")


def _summary(latencies: Sequence[float]) -> str:
    ranked = sorted(latencies)
    p50, p99, worst = (ranked[int(len(ranked) * part)] * 1e3 for part in (0.5, 0.99, 0.99999))
    late = sum(each > GOAL_S for each in latencies)
    return (
        f"{p50:.1f} ms; p99 {p99:.1f} ms; worst {worst:.1f} ms of {len(latencies):,}, "
        f"{late} over {GOAL_S * 1e3:.0f} ms"
    )


def _document() -> str:
    """Return a config with one rule for each of very many modules."""
    rule = {"op_state_spec": {"weight": {"n_bits": 4}}}
    rule_bytes = len(json.dumps({"model.layers.000000.mlp": rule}))
    count = DOCUMENT_BYTES // rule_bytes
    rules = {f"model.layers.{number:06d}.mlp": rule for number in range(count)}
    return json.dumps({"global_config": None, "module_name_configs": rules | {"encoder": rule}})


if __name__ == "__main__":
    main()
