"""Rates of uploads and downloads over loopback, against a bare ASGI app under the same uvicorn.

Run as `python -m benchmarks.transfer`. Needs 4 GB of disk in the temporary folder.
"""

import base64
import hashlib
import io
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import save

from benchmarks.service import row
from benchmarks.serving import Service, bare, embedded
from palettery.schemas.jobs import ENDED_STATES
from palettery.schemas.uploads import PART_BYTES, Upload

PIECE_BYTES = 1 << 20
SHAPE, RUNS = (32 << 10, 4096), 3
KEEP_ALL = '{"global_config": null}'
GOAL = 0.5


class Model:
    """A random model of 512 MiB, and its digests, whose computation is not measured."""

    def __init__(self, seed: int) -> None:
        self.body = save({"weight": np.random.default_rng(seed).random(SHAPE, np.float32)})
        self.sha256 = hashlib.sha256(self.body).hexdigest()
        starts = range(0, len(self.body), PART_BYTES)
        pieces = [self.body[start : start + PART_BYTES] for start in starts]
        self.parts = [(piece, _content_digest(piece)) for piece in pieces]


def main() -> None:
    """Measure, and print each row as soon as it is known; times are medians of three, in turns."""
    print("| what | measured | ratio | goal |\n| --- | --- | --- | --- |")
    models = [Model(seed) for seed in range(RUNS)]
    with (
        tempfile.TemporaryDirectory(prefix="palettery-bench-") as folder,
        bare(Path(folder)) as peer,
        embedded(Path(folder), workers=1) as service,
    ):
        uploads(service, peer, models)
        downloads(service, peer, Path(folder), models[0])


def uploads(service: Service, peer: httpx.Client, models: Sequence[Model]) -> None:
    """Upload of a model until it is ready for jobs, against one PUT of its bytes."""
    peer_times, form_times = [], []
    part_times: dict[int, list[float]] = {1: [], 2: []}
    for model in models:
        peer_times.append(_put(peer, model))
        for at_once, times in part_times.items():
            times.append(_send(service, model, at_once))
        form_times.append(_post_form(service, model))
    size_bytes = len(models[0].body)
    peer_s = _print_rate("PUT to a bare app that hashes and writes", size_bytes, peer_times)
    for at_once, times in part_times.items():
        _print_rate(
            f"upload in parts, {at_once} at a time, and complete", size_bytes, times, peer_s
        )
    _print_rate("upload in one form, with a job's plan", size_bytes, form_times, peer_s)


def downloads(service: Service, peer: httpx.Client, folder: Path, model: Model) -> None:
    """Download of an artifact as large as its model, against the same bytes as a static file."""
    response = service.http.post(
        "/v1/jobs",
        files={"model": ("m.safetensors", model.body)},
        data={"config": KEEP_ALL, "reuse": "false"},
    )
    job = service.client.job(response.raise_for_status().json()["id"])
    while (job := service.client.job(job.id)).state not in ENDED_STATES:
        time.sleep(0.02)
    path = f"/v1/jobs/{job.id}/artifact"
    artifact = service.http.get(path).raise_for_status().content
    (folder / "static").write_bytes(artifact)
    theirs, ours = [], []
    for _ in range(RUNS):
        theirs.append(_fetch(peer, "/static"))
        ours.append(_fetch(service.http, path))
    peer_s = _print_rate("GET of a static file (Starlette)", len(artifact), theirs)
    _print_rate("GET of an artifact", len(artifact), ours, peer_s)


def _put(peer: httpx.Client, model: Model) -> float:
    started = time.perf_counter()
    peer.put("/peer", **_streamed(model.body)).raise_for_status()
    return time.perf_counter() - started


def _send(service: Service, model: Model, at_once: int) -> float:
    file = {"name": "m.safetensors", "size_bytes": len(model.body), "sha256": model.sha256}
    started = time.perf_counter()
    response = service.http.post("/v1/uploads", json={"files": [file]}).raise_for_status()
    upload = Upload.model_validate_json(response.content)

    def put(number: int) -> None:
        piece, digest = model.parts[number - 1]
        path = f"/v1/uploads/{upload.id}/parts/{number}"
        service.http.put(path, **_streamed(piece, digest)).raise_for_status()

    with ThreadPoolExecutor(at_once) as senders:
        list(senders.map(put, range(1, len(model.parts) + 1)))
    model_json = service.http.post(f"/v1/uploads/{upload.id}/complete").raise_for_status().json()
    seconds = time.perf_counter() - started
    service.http.delete(f"/v1/models/{model_json['id']}").raise_for_status()
    return seconds


def _post_form(service: Service, model: Model) -> float:
    started = time.perf_counter()
    service.http.post(
        "/v1/plans",
        files={"model": ("m.safetensors", io.BytesIO(model.body))},
        data={"config": KEEP_ALL},
    ).raise_for_status()
    return time.perf_counter() - started


def _streamed(data: bytes, digest: str = "") -> dict[str, Any]:
    """Return arguments of httpx to send bytes in pieces; it sends one large `bytes` slowly."""
    starts = range(0, len(data), PIECE_BYTES)
    return {
        "content": (data[start : start + PIECE_BYTES] for start in starts),
        "headers": {"Content-Length": str(len(data)), "Content-Digest": digest},
    }


def _fetch(http: httpx.Client, path: str) -> float:
    started = time.perf_counter()
    with http.stream("GET", path) as response:
        for _ in response.raise_for_status().iter_raw(1 << 20):
            pass
    return time.perf_counter() - started


def _print_rate(
    what: str, size_bytes: int, times: Sequence[float], peer_s: float | None = None
) -> float:
    """Print a row; return the median of the times."""
    median_s = statistics.median(times)
    ratio, goal = (None, "") if peer_s is None else (peer_s / median_s, f"at least {GOAL}x")
    row(what, f"{size_bytes / median_s / 1e6:.0f} MB/s", ratio, goal)
    return median_s


def _content_digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


if __name__ == "__main__":
    main()
