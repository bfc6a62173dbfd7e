"""Files of an artifact and its model, in the folder of a sandbox that runs the model."""

import math
import os
from collections.abc import Sequence
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
"""Names in the sandbox's folder."""
MEMORY_PER_MODEL_BYTE = 8
"""Memory of the process, as a multiple of the size of the decoded model."""
MIN_FILE_BYTES = 1 << 30
"""Lower bound on the limit of file sizes of the process."""


class SandboxFiles(Schema):
    """Files in a sandbox's folder."""

    files: tuple[str, ...]
    """Names of the artifact's files, in order."""
    name: str
    """Name of the uploaded `.pt2`."""
    dense_bytes: int
    """Size of the model, with all weights decoded."""


def copy_to_sandbox(artifact: Artifact, source: ExportSource, folder: Path) -> SandboxFiles:
    """Copy an artifact and its model into a sandbox's folder."""
    files, dense_bytes = copy_artifact(artifact, folder)
    _copy(source.storage, source.file.path, folder / UPLOAD, artifact)
    return SandboxFiles(files=files, name=source.file.name, dense_bytes=dense_bytes)


def copy_artifact(artifact: Artifact, folder: Path) -> tuple[tuple[str, ...], int]:
    """Copy an artifact into a sandbox's folder; return its files, and its size when decoded."""
    paths = dict.fromkeys(
        stored.path
        for parts in (artifact.kept_tensors, *artifact.palettes.values())
        for stored in parts.values()
    )
    (folder / ARTIFACT).mkdir()
    files = [f"{number}.safetensors" for number in range(len(paths))]
    for name, path in zip(files, paths, strict=True):
        _copy(artifact.storage, path, folder / ARTIFACT / name, artifact)
    sizes = [artifact.dense_bytes(name) for name in artifact.weights]
    sizes += [kept.tensor.size_bytes for kept in artifact.kept_tensors.values()]
    return tuple(files), sum(sizes)


def open_sandbox_files(files: SandboxFiles, folder: Path) -> tuple[Artifact, ExportSource]:
    """Open the artifact and the model in a sandbox's folder."""
    artifact = open_artifact_files(files.files, folder)
    size_bytes = (folder / UPLOAD).stat().st_size
    file = StoredFile(name=files.name, path=UPLOAD, size_bytes=size_bytes)
    return artifact, ExportSource(open_storage(folder.as_uri()), file)


def open_artifact_files(names: Sequence[str], folder: Path) -> Artifact:
    """Open the artifact in a sandbox's folder."""
    return open_files([folder / ARTIFACT / name for name in names])


def sandbox_bounds(dense_bytes: int, sandbox: Sandbox, extra_bytes: int = 0) -> Bounds:
    """Return the resource limits of a process that runs a model; `extra_bytes` adds memory."""
    memory_bytes = sandbox.memory_bytes + MEMORY_PER_MODEL_BYTE * dense_bytes + extra_bytes
    return Bounds(
        memory_bytes=memory_bytes,
        cpu_s=math.ceil(sandbox.timeout_s) * (os.cpu_count() or 1),
        wall_s=sandbox.timeout_s,
        file_bytes=max(memory_bytes, MIN_FILE_BYTES),
    )


def _copy(storage: Storage, path: str, to: Path, artifact: Artifact) -> None:
    with to.open("wb") as file:
        for chunk in storage.chunks(path, 0, storage.size_bytes(path)):
            artifact.check()
            file.write(chunk)
