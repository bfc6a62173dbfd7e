"""The service end to end over HTTP on loopback, compared with `cp`, `sha256sum` and bare kernels.

Run as `python -m benchmarks.service [--large] [--only NAME ...]`. Needs Linux, 8 GB of
memory, and 4 GB of disk in the temporary folder (`--large`: 40 GB).
"""

import argparse
import math
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from benchmarks.serving import Service, distributed, embedded, peak_memory
from palettery.app.artifacts.writer import TensorEntry, header
from palettery.kernels import PaletteSettings, palettize
from palettery.schemas.jobs import ENDED_STATES, Job

CORES = 2
SHAPE = (2048, 2048)
GB = 1_000_000_000
TOUCHED_BYTES = 6 * GB
"""More memory than a model of 1 GB needs in all steps together."""
SMALL_SHAPE, SMALL_TENSORS = (128, 128), 2
LATENCY_JOBS, DRAIN_JOBS, SENDERS = 30, 200, 4
PAUSE_S = 0.13
"""Pause between two jobs, so that they arrive at every phase of the queue's polling."""
IDLE_S = 0.3
"""Workers have stopped when none has used processor time for this long."""
VECTOR = (
    '{"global_config": {"enable_fast_kmeans_mode": false,'
    '"op_state_spec": {"weight": {"n_bits": 8, "cluster_dim": 4}}}}'
)
VECTOR_4 = VECTOR.replace('"n_bits": 8, "cluster_dim": 4', '"n_bits": 4, "cluster_dim": 2')


def main() -> None:
    """Run the chosen measurements, and print each row as soon as it is known."""
    measures: dict[str, Callable[[Path], None]] = {
        "latency": latency,
        "drain": drain,
        "model": one_gigabyte,
        "cancel": cancel,
        "speedup": speed_up,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=measures, default=list(measures))
    parser.add_argument("--large", action="store_true", help="20 GB too, for minutes")
    options = parser.parse_args()
    print("| what | measured | ratio | goal |\n| --- | --- | --- | --- |")
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix="palettery-bench-") as folder:
            measures[name](Path(folder))
    if options.large:
        with tempfile.TemporaryDirectory(prefix="palettery-bench-") as folder:
            twenty_gigabytes(Path(folder))


def row(what: str, measured: str, ratio: float | None = None, goal: str = "") -> None:
    """Print one row of the table."""
    shown = "" if ratio is None else f"{ratio:.2f}x"
    print(f"| {what} | {measured} | {shown} | {goal} |", flush=True)


def latency(folder: Path) -> None:
    """Time from sending a small job to the end of its first task, on an idle, warm server.

    A task that has ended has a part in the store, which is polled every millisecond. The time
    includes the few milliseconds that the task computes, so it is an upper bound of the latency.
    """
    with embedded(folder, CORES) as service:
        latencies = [_latency_s(service, seed) for seed in range(LATENCY_JOBS + 3)][3:]
    to_first_part, to_started = zip(*latencies, strict=True)
    to_part = statistics.median(each for each in to_first_part if each is not None) * 1e3
    to_row = statistics.median(to_started) * 1e3
    row("submit to first part, median", f"{to_part:.0f} ms", to_part / 150, "150 ms")
    row("created_at to started_at, median", f"{to_row:.0f} ms")


def _latency_s(service: Service, seed: int) -> tuple[float | None, float]:
    """Return the seconds to the first part (None if polling missed it) and to `started_at`."""
    jobs, ended = service.store / "jobs", threading.Event()
    known = set(jobs.iterdir()) if jobs.exists() else set()
    first: list[float] = []

    def poll() -> None:
        while not first and not ended.wait(0.001):
            new = set(jobs.iterdir()) - known if jobs.exists() else set()
            if any(next((job / "parts").glob("*"), None) for job in new):
                first.append(time.perf_counter())

    body = _small_model(seed)
    polling = threading.Thread(target=poll)
    polling.start()
    sent = time.perf_counter()
    job = _wait(service, _submit(service, body))
    ended.set()
    polling.join()
    time.sleep(PAUSE_S)
    assert job.started_at is not None  # noqa: S101 - it succeeded
    to_part = first[0] - sent if first else None
    return to_part, (job.started_at - job.created_at).total_seconds()


def drain(folder: Path) -> None:
    """Overhead of the service per job, for many small jobs from four concurrent senders."""
    bodies = [_small_model(seed) for seed in range(DRAIN_JOBS)]
    weight = np.random.default_rng(0).normal(0, 0.02, SMALL_SHAPE).astype(np.float32)
    settings = PaletteSettings(4, group_size=16, rounding_precision=4)
    palettize(weight, settings, threads=1)
    started = time.perf_counter()
    for _ in range(DRAIN_JOBS * SMALL_TENSORS):
        palettize(weight, settings, threads=1)
    kernels_s = (time.perf_counter() - started) / CORES
    with embedded(folder, CORES) as service:
        _wait(service, _submit(service, bodies[0]))
        started = time.perf_counter()
        with ThreadPoolExecutor(SENDERS) as senders:
            jobs = list(senders.map(lambda body: _submit(service, body), bodies))
        sent_s = time.perf_counter() - started
        for job in jobs:  # one at a time, since listing them all would dominate the server's load
            while service.client.job(job.id).state not in ENDED_STATES:
                time.sleep(0.1)
        wall_s = time.perf_counter() - started
        assert all(service.client.job(job.id).state == "succeeded" for job in jobs)  # noqa: S101
    each_ms = (wall_s - kernels_s) / DRAIN_JOBS * 1e3
    row(f"overhead per job, {DRAIN_JOBS} jobs", f"{each_ms:.1f} ms", each_ms / 40, "40 ms")
    row("of which sending", f"{sent_s:.1f} of {wall_s:.1f} s; kernels {kernels_s:.2f} s")


def one_gigabyte(folder: Path) -> None:
    """Upload of 1 GB, job, and download of the artifact, against `cp` and `sha256sum` of the file.

    Once in one form, as curl sends it, and once in resumable parts, as the client does.
    """
    senders = {"in one form": _post, "in parts": _upload}
    with embedded(folder, CORES) as service:
        _stages_s(service, _post, _new_model(folder, 0), folder / "warm")
        model = _new_model(folder, 1)
        _touch_memory()
        copied_s = _process_s("cp", model, folder / "copy") + _process_s("sha256sum", model)
        row("`cp` and `sha256sum` of 1 GB", f"{copied_s:.1f} s")
        for seed, (how, send) in enumerate(senders.items(), 2):
            model = _new_model(folder, seed)
            _touch_memory()
            stages = _stages_s(service, send, model, folder / f"out{seed}")
            total_s = sum(stages.values())
            what = f"1 GB float16, w4, end to end, sent {how}"
            row(what, f"{total_s:.1f} s", total_s / copied_s, "3x")
            for stage, seconds in stages.items():
                row(f"of which {stage}", f"{seconds:.2f} s")
        with peak_memory(service) as peak:
            _stages_s(service, _upload, _new_model(folder, 4), folder / "out")
    row("peak memory (PSS of all processes)", f"{peak[0] / 1e9:.2f} GB", None, "1.5 GB")


def twenty_gigabytes(folder: Path) -> None:
    """A checkpoint of 20 GB in ten shards that are generated while they are sent."""
    with embedded(folder, CORES) as service, peak_memory(service) as peak:
        started = time.perf_counter()
        response = service.http.post(
            "/v1/jobs",
            content=_form([(number, 2 * GB) for number in range(10)]),
            headers={"Content-Type": "multipart/form-data; boundary=palettery-benchmark-form"},
        )
        sent_s = time.perf_counter() - started
        job = _wait(service, Job.model_validate_json(response.read()), poll_every_s=1)
        total_s = time.perf_counter() - started
    assert job.size_after_bytes is not None  # noqa: S101 - it succeeded
    row("20 GB float16, w4", f"{total_s:.0f} s, of which sending {sent_s:.0f} s")
    row("its artifact", f"{job.size_after_bytes / 1e9:.2f} GB")
    row("its peak memory (PSS of all processes)", f"{peak[0] / 1e9:.2f} GB", None, "1.5 GB")


def speed_up(folder: Path) -> None:
    """Time of a job that is nearly all kernels, with one and with two single-thread workers.

    On two cores, one worker leaves a core to server and scheduler; two workers share theirs.
    """
    rng = np.random.default_rng(0)
    model = save({f"{n}.weight": rng.standard_normal(SHAPE, np.float32) for n in range(32)})
    times = {}
    for workers in (1, 2):
        data_folder = folder / str(workers)
        data_folder.mkdir()
        with distributed(data_folder, workers) as service:
            while len(service.workers()) < workers:
                time.sleep(0.1)
            for _ in range(2):  # the first one may compile
                submitted = _submit(service, model, config=VECTOR_4, reuse="false")
                job = _wait(service, submitted, poll_every_s=0.02)
            assert job.started_at is not None  # noqa: S101 - it succeeded
            assert job.ended_at is not None  # noqa: S101
            times[workers] = (job.ended_at - job.started_at).total_seconds()
    ratio = times[1] / times[2]
    row("one worker, then two", f"{times[1]:.1f} s, {times[2]:.1f} s", ratio, "at least 1.8x")


def cancel(folder: Path) -> None:
    """Time from the cancellation of a job with slow tasks until its workers are idle."""
    rng = np.random.default_rng(0)
    model = save({f"{n}.weight": rng.standard_normal((4096, 4096), np.float32) for n in range(2)})
    with embedded(folder, CORES) as service:
        job = _submit(service, model, config=VECTOR)
        while service.client.job(job.id).state != "running":
            time.sleep(0.01)
        time.sleep(2)
        cancelled_at = busy_at = time.perf_counter()
        service.client.cancel(job.id)
        spent = _ticks(service)
        while time.perf_counter() - busy_at < IDLE_S:
            time.sleep(0.02)
            now = _ticks(service)
            if now > spent:
                spent, busy_at = now, time.perf_counter()
    cancel_s = busy_at - cancelled_at
    row("cancellation to idle workers", f"{cancel_s:.2f} s", cancel_s / 2, "2 s")


def _ticks(service: Service) -> int:
    """Return the processor time of the workers so far, in tenths of a second."""
    stats = [Path(f"/proc/{pid}/stat").read_text() for pid in service.workers()]
    return sum(int(stat.rsplit(")", 1)[1].split()[11]) // 10 for stat in stats)


def _new_model(folder: Path, seed: int) -> Path:
    """Write a model of 1 GB that differs from all others, over the previous one."""
    model = folder / "model.safetensors"
    with model.open("wb") as file:
        file.writelines(_checkpoint(seed, GB))
    return model


def _touch_memory() -> None:
    """Make the machine allocate the memory that the next measurement uses.

    A virtual machine that has returned free memory to its host gets it back page by page, which
    costs whoever writes first 2.4 s per GB, and would be counted against `cp` or the service.
    """
    np.ones(TOUCHED_BYTES, np.uint8)


def _post(service: Service, model: Path) -> Job:
    with model.open("rb") as file:
        response = service.http.post(
            "/v1/jobs",
            files={"model": (model.name, file)},
            data={"preset": "w4", "reuse": "false"},
        )
    return Job.model_validate_json(response.raise_for_status().content)


def _upload(service: Service, model: Path) -> Job:
    return service.client.submit([model], preset="w4", reuse=False)


def _stages_s(
    service: Service, send: Callable[[Service, Path], Job], model: Path, out: Path
) -> dict[str, float]:
    """Return the seconds of each stage of one job without reuse."""
    moments = [time.perf_counter()]
    job = send(service, model)
    moments.append(time.perf_counter())
    while (job := service.client.job(job.id)).state not in ENDED_STATES:
        if len(moments) == 2 and job.progress.bytes_done == job.progress.bytes_total:
            moments.append(time.perf_counter())
        time.sleep(0.01)
    moments += [time.perf_counter()] * (4 - len(moments))
    service.client.download(job.id, out)
    moments.append(time.perf_counter())
    stages = ("upload and plan", "compress", "assemble and verify", "download and check")
    return dict(zip(stages, (b - a for a, b in pairwise(moments)), strict=True))


def _submit(service: Service, body: bytes, **fields: str) -> Job:
    response = service.http.post(
        "/v1/jobs", files={"model": ("m.safetensors", body)}, data=fields or {"preset": "w4"}
    )
    return Job.model_validate_json(response.raise_for_status().content)


def _wait(service: Service, job: Job, poll_every_s: float = 0.005) -> Job:
    while (job := service.client.job(job.id)).state not in ENDED_STATES:
        time.sleep(poll_every_s)
    if job.state != "succeeded":
        raise SystemExit(f"the job {job.state}: {job.error}")
    return job


def _small_model(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    return save(
        {
            f"encoder.{number}.weight": rng.normal(0, 0.02, SMALL_SHAPE).astype(np.float32)
            for number in range(SMALL_TENSORS)
        }
    )


def _checkpoint(seed: int, size_bytes: int) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file of float16 matrices, all different, one matrix at a time."""
    matrix_bytes = 2 * math.prod(SHAPE)
    names = [f"model.layers.{seed}_{n:03d}.mlp.weight" for n in range(size_bytes // matrix_bytes)]
    yield header([TensorEntry(name, "F16", SHAPE, matrix_bytes, tuple) for name in names], {})
    rng = np.random.default_rng(seed)
    base = (rng.standard_normal(SHAPE, np.float32) * np.float32(0.02)).astype(np.float16)
    for number in range(len(names)):
        yield np.roll(base, number * 4099 + 1).reshape(-1).view(np.uint8).data


def _form(shards: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Yield a multipart form of shards (seed, bytes), generated while it is sent."""
    boundary = b"--palettery-benchmark-form"
    part_head = b'%s\r\nContent-Disposition: form-data; name="%s"'
    yield part_head % (boundary, b"preset") + b"\r\n\r\nw4\r\n"
    for seed, size_bytes in shards:
        yield part_head % (boundary, b"model") + b'; filename="%02d.safetensors"\r\n\r\n' % seed
        yield from map(bytes, _checkpoint(seed, size_bytes))
        yield b"\r\n"
    yield boundary + b"--\r\n"


def _process_s(*command: str | Path) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
