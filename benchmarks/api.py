"""How long requests wait for each other.

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
"""On a machine of two cores the other one is the server's."""
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
    """`GET` of a job that one worker is busy with, asked for 200 times a second.

    A process of its own asks at fixed moments, and counts from those: a late answer makes the ones
    behind it late, too.
    """
    rng = np.random.default_rng(0)
    model = save({f"{n}.weight": rng.standard_normal((4096, 4096), np.float32) for n in range(4)})
    with embedded(folder, WORKERS, PALETTERY_TASK_THREADS="1") as service:  # on the other core
        answer = service.http.post(
            "/v1/jobs", files={"model": ("m.safetensors", model)}, data={"config": VECTOR}
        )
        path = f"/v1/jobs/{answer.raise_for_status().json()['id']}"
        while service.http.get(path).json()["state"] != "running":
            time.sleep(0.01)
        with ProcessPoolExecutor(1, _SPAWNED) as asking:
            found = asking.submit(_ask_steadily, service.url, path).result()
        state = service.http.post(f"{path}/cancel").raise_for_status().json()["state"]
        assert state == "cancelled"  # noqa: S101 - so that it was running all the time
    ranked = sorted(found)
    middle, most = (ranked[int(len(ranked) * part)] for part in (0.5, 0.99))
    shown = f"{middle * 1e3:.1f} ms; p99 {most * 1e3:.1f} ms; worst {ranked[-1] * 1e3:.1f} ms"
    row("GET of a running job, 200 a second", shown, most / P99_GOAL_S, f"p99 {P99_GOAL_S:.3f} s")


def _ask_steadily(url: str, path: str) -> list[float]:
    """Seconds from when each request was due to its answer."""
    gc.freeze()
    return asyncio.run(_asked(urlsplit(url).netloc, path))


async def _asked(address: str, path: str) -> list[float]:
    """Requests over a few connections, each as light as can be: the server's core is ours, too."""
    host, _, port = address.partition(":")
    request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncio.open_connection(host, int(port)))
    found: list[float] = []

    async def ask(due: float) -> None:
        reader, writer = connection = await free.get()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")  # noqa: S101
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r")[0]))
        found.append(time.perf_counter() - due)
        free.put_nowait(connection)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as asking:
        for number in range(REQUESTS):
            due = start + number / REQUESTS_A_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asking.create_task(ask(due))
    return found


def large_configs(folder: Path) -> None:
    """Latency of `GET /livez` while configs of 5 MB are submitted, beside what the machine takes.

    Every request is followed by one to a bare server that has nothing else to do: whatever holds up
    its answers is the machine. The model is small, and no rule matches it but the last, so that
    planning is nearly all work.
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
        asked = (f"{service.url}/livez", str(peer.base_url.join("/small")))
        for send in submit.values():  # the first one starts the process that others are forked from
            send().raise_for_status()
        with _polled(*asked) as idle:
            time.sleep(IDLE_S)
        _tell("idle", idle)
        for how, send in submit.items():
            taken = []
            with _polled(*asked) as busy:
                for _ in range(SUBMISSIONS):
                    started = time.perf_counter()
                    send().raise_for_status()
                    taken.append(time.perf_counter() - started)
            size = f"{len(document) / 1e6:.1f} MB {how}"
            _tell(f"while {size} is sent", busy, GOAL_S)
            row(f"{size}, from sending to the answer, median", f"{statistics.median(taken):.1f} s")


@contextmanager
def _polled(*urls: str) -> Iterator[list[list[float]]]:
    """Seconds that each of many `GET`s of each address takes, in turns; in the list at the end.

    A process of its own asks, so that it waits for nobody but the servers.
    """
    found: list[list[float]] = []
    ours, theirs = multiprocessing.Pipe()
    polling = _SPAWNED.Process(target=_poll, args=(urls, theirs))
    polling.start()
    ours.recv()
    try:
        yield found
    finally:
        ours.send(None)
        found += ours.recv()
        polling.join()


def _poll(urls: Sequence[str], caller: Connection) -> None:
    found: list[list[float]] = [[] for _ in urls]
    with httpx.Client() as client:
        for url in urls:
            client.get(url).raise_for_status()
        gc.freeze()  # a collection of all that was imported takes 50 ms: ours, not a server's
        caller.send(None)
        while not caller.poll(POLL_EVERY_S):
            for url, times in zip(urls, found, strict=True):
                started = time.perf_counter()
                client.get(url).raise_for_status()
                times.append(time.perf_counter() - started)
    caller.send(found)


def _tell(when: str, polled: list[list[float]], goal: float | None = None) -> None:
    """Latencies, and those of the bare server meanwhile."""
    found, beside = polled
    row(f"a file of 2 bytes from a bare server, {when}", _shown(beside))
    if goal is None:
        row(f"GET /livez, {when}", _shown(found))
    else:
        row(f"GET /livez, {when}", _shown(found), max(found) / goal, f"worst {goal * 1e3:.0f} ms")


def _shown(found: Sequence[float]) -> str:
    ranked = sorted(found)
    middle, most, worst = (ranked[int(len(ranked) * part)] * 1e3 for part in (0.5, 0.99, 0.99999))
    late = sum(each > GOAL_S for each in found)
    return (
        f"{middle:.1f} ms; p99 {most:.1f} ms; worst {worst:.1f} ms of {len(found):,}, "
        f"{late} over {GOAL_S * 1e3:.0f} ms"
    )


def _document() -> str:
    """A config with a rule of its own for each of very many modules."""
    rule = {"op_state_spec": {"weight": {"n_bits": 4}}}
    each = len(json.dumps({"model.layers.000000.mlp": rule}))
    count = DOCUMENT_BYTES // each
    rules = {f"model.layers.{number:06d}.mlp": rule for number in range(count)}
    return json.dumps({"global_config": None, "module_name_configs": rules | {"encoder": rule}})


if __name__ == "__main__":
    main()
