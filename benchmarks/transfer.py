"""Rates of uploads and downloads over loopback, beside a bare ASGI app under the same uvicorn.

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
from palettery.schemas.jobs import ENDED
from palettery.schemas.uploads import PART_BYTES, Upload

PIECE_BYTES = 1 << 20
SHAPE, RUNS = (32 << 10, 4096), 3
KEEP_ALL = '{"global_config": null}'
GOAL = 0.5


class Model:
    """A model of 512 MiB of its own, with all its digests: those are the sender's work."""

    def __init__(self, seed: int) -> None:
        self.body = save({"weight": np.random.default_rng(seed).random(SHAPE, np.float32)})
        self.sha256 = hashlib.sha256(self.body).hexdigest()
        starts = range(0, len(self.body), PART_BYTES)
        pieces = [self.body[start : start + PART_BYTES] for start in starts]
        self.parts = [(piece, _content_digest(piece)) for piece in pieces]


def main() -> None:
    """Measure, and print each row as it is known; times are medians of three, taken in turns."""
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
    """A model until it can be used, beside one PUT of its bytes."""
    of_peer, of_form = [], []
    of_parts: dict[int, list[float]] = {1: [], 2: []}
    for model in models:
        of_peer.append(_put(peer, model))
        for at_once, found in of_parts.items():
            found.append(_send(service, model, at_once))
        of_form.append(_post_form(service, model))
    size_bytes = len(models[0].body)
    least = _tell("PUT to a bare app that hashes and writes", size_bytes, of_peer)
    for at_once, found in of_parts.items():
        _tell(f"upload in parts, {at_once} at a time, and complete", size_bytes, found, least)
    _tell("upload in one form, with a job's plan", size_bytes, of_form, least)


def downloads(service: Service, peer: httpx.Client, folder: Path, model: Model) -> None:
    """An artifact of all a model's bytes, beside the same as a static file."""
    answer = service.http.post(
        "/v1/jobs",
        files={"model": ("m.safetensors", model.body)},
        data={"config": KEEP_ALL, "reuse": "false"},
    )
    job = service.client.job(answer.raise_for_status().json()["id"])
    while (job := service.client.job(job.id)).state not in ENDED:
        time.sleep(0.02)
    path = f"/v1/jobs/{job.id}/artifact"
    artifact = service.http.get(path).raise_for_status().content
    (folder / "static").write_bytes(artifact)
    theirs, ours = [], []
    for _ in range(RUNS):
        theirs.append(_fetch(peer, "/static"))
        ours.append(_fetch(service.http, path))
    least = _tell("GET of a static file (Starlette)", len(artifact), theirs)
    _tell("GET of an artifact", len(artifact), ours, least)


def _put(peer: httpx.Client, model: Model) -> float:
    started = time.perf_counter()
    peer.put("/peer", **_streamed(model.body)).raise_for_status()
    return time.perf_counter() - started


def _send(service: Service, model: Model, at_once: int) -> float:
    file = {"name": "m.safetensors", "size_bytes": len(model.body), "sha256": model.sha256}
    started = time.perf_counter()
    answer = service.http.post("/v1/uploads", json={"files": [file]}).raise_for_status()
    upload = Upload.model_validate_json(answer.content)

    def put(number: int) -> None:
        piece, digest = model.parts[number - 1]
        path = f"/v1/uploads/{upload.id}/parts/{number}"
        service.http.put(path, **_streamed(piece, digest)).raise_for_status()

    with ThreadPoolExecutor(at_once) as senders:
        list(senders.map(put, range(1, len(model.parts) + 1)))
    made = service.http.post(f"/v1/uploads/{upload.id}/complete").raise_for_status().json()
    seconds = time.perf_counter() - started
    service.http.delete(f"/v1/models/{made['id']}").raise_for_status()
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
    """How httpx sends bytes a piece at a time; of all at once it copies the rest over and over."""
    starts = range(0, len(data), PIECE_BYTES)
    return {
        "content": (data[start : start + PIECE_BYTES] for start in starts),
        "headers": {"Content-Length": str(len(data)), "Content-Digest": digest},
    }


def _fetch(http: httpx.Client, path: str) -> float:
    started = time.perf_counter()
    with http.stream("GET", path) as answer:
        for _ in answer.raise_for_status().iter_raw(1 << 20):
            pass
    return time.perf_counter() - started


def _tell(what: str, size_bytes: int, times: Sequence[float], peer_s: float | None = None) -> float:
    """A row; the median of the times."""
    median_s = statistics.median(times)
    ratio, goal = (None, "") if peer_s is None else (peer_s / median_s, f"at least {GOAL}x")
    row(what, f"{size_bytes / median_s / 1e6:.0f} MB/s", ratio, goal)
    return median_s


def _content_digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


if __name__ == "__main__":
    main()
