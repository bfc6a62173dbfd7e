"""The files of an artifact and of its model, for a sandboxed process that runs the model."""

import math
import os
from pathlib import Path

from palettery.app.artifacts.export.request import ExportSource
from palettery.app.artifacts.files import open_files
from palettery.app.artifacts.reader import Artifact
from palettery.app.sandbox import Bounds
from palettery.app.settings import Sandbox
from palettery.app.storage.base import Storage
from palettery.app.storage.open import open_storage
from palettery.schemas.base import Schema
from palettery.schemas.checkpoint import StoredFile

ARTIFACT, UPLOAD = "artifact", "upload.pt2"
"""What lies in the process's folder."""
MEMORY_TIMES = 8
"""Copies of the model, all weights decoded, that the process has room for."""

FILE_BYTES = 1 << 30
"""The least that each file of the process may have."""


class Inputs(Schema):
    """What was laid into a folder."""

    files: tuple[str, ...]
    """Names of the artifact's, in order."""
    name: str
    """Of the uploaded `.pt2`."""
    dense_bytes: int
    """Of the model, all weights decoded."""


def lay_out(artifact: Artifact, source: ExportSource, folder: Path) -> Inputs:
    """Copy an artifact and its model into a folder."""
    paths = dict.fromkeys(
        stored.path
        for parts in (artifact.kept, *artifact.palettes.values())
        for stored in parts.values()
    )
    (folder / ARTIFACT).mkdir()
    files = [f"{number}.safetensors" for number in range(len(paths))]
    for name, path in zip(files, paths, strict=True):
        _fetch(artifact.storage, path, folder / ARTIFACT / name, artifact)
    _fetch(source.storage, source.file.path, folder / UPLOAD, artifact)
    sizes = [artifact.dense_bytes(name) for name in artifact.weights]
    sizes += [kept.tensor.size_bytes for kept in artifact.kept.values()]
    return Inputs(files=tuple(files), name=source.file.name, dense_bytes=sum(sizes))


def open_inputs(inputs: Inputs, folder: Path) -> tuple[Artifact, ExportSource]:
    """The artifact and the model in a folder."""
    artifact = open_files([folder / ARTIFACT / name for name in inputs.files])
    size_bytes = (folder / UPLOAD).stat().st_size
    file = StoredFile(name=inputs.name, path=UPLOAD, size_bytes=size_bytes)
    return artifact, ExportSource(open_storage(folder.as_uri()), file)


def bounds_of(inputs: Inputs, sandbox: Sandbox, more_bytes: int = 0) -> Bounds:
    """What a process may use that runs the model; `more_bytes` is memory beyond that."""
    room = sandbox.memory_bytes + MEMORY_TIMES * inputs.dense_bytes + more_bytes
    return Bounds(
        memory_bytes=room,
        cpu_s=math.ceil(sandbox.timeout_s) * (os.cpu_count() or 1),
        wall_s=sandbox.timeout_s,
        file_bytes=max(room, FILE_BYTES),
    )


def _fetch(storage: Storage, path: str, to: Path, artifact: Artifact) -> None:
    with to.open("wb") as file:
        for chunk in storage.chunks(path, 0, storage.size_bytes(path)):
            artifact.check()
            file.write(chunk)
