"""Forms of models that run: torch and the converters work in a process of its own, with limits.

What it gets is a folder: the artifact's files and the uploaded `.pt2`. What it gives back lies
there, too, and has been read back and compared by then.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import ValidationError

from app.artifacts.export.order import Export, Source
from app.artifacts.reader import Artifact
from app.confined import environment
from app.errors import ERRORS, InvalidArtifact, OutOfMemory, PaletteryError
from app.storage import CHUNK_BYTES, Storage
from schemas.base import Schema
from schemas.exports import ExportFormat

ARTIFACT, UPLOAD, REQUEST, ANSWER, OUT = "artifact", "upload.pt2", "request", "answer", "out"
"""What lies in the folder."""
LOOK_EVERY_S = 0.2


class Request(Schema):
    """What the process is asked for."""

    to: ExportFormat
    dense: tuple[str, ...]
    files: tuple[str, ...]
    """Names of the artifact's, in order."""
    name: str
    """Of the upload."""
    dense_bytes: int
    """Of the model, all weights decoded."""


class Answer(Schema):
    """How it went: nothing, or the error that it ended with."""

    code: str | None = None
    detail: str = ""


def write_apart(to: ExportFormat, wanted: Export) -> str:
    """Write a form of a model that runs; the digest of its file.

    Raises:
        UnsupportedFormat: the graph cannot be handed to torch, or the converter cannot take it.
        InvalidArtifact: what was written is not what the artifact says.
        OutOfMemory: it took more than it may.
    """
    assert wanted.source is not None  # noqa: S101 - `check_graph` saw to it
    with tempfile.TemporaryDirectory(prefix="palettery-export-") as name:
        folder = Path(name)
        _lay_out(to, wanted, wanted.source, folder)
        _run(folder, wanted.artifact)
        _check_answer(to, folder)
        with (folder / OUT).open("rb") as file:
            return wanted.put(iter(lambda: file.read(CHUNK_BYTES), b""))


def _lay_out(to: ExportFormat, wanted: Export, source: Source, folder: Path) -> None:
    artifact = wanted.artifact
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
    request = Request(
        to=to,
        dense=tuple(wanted.dense),
        files=tuple(files),
        name=source.file.name,
        dense_bytes=sum(sizes),
    )
    (folder / REQUEST).write_text(request.model_dump_json())


def _fetch(storage: Storage, path: str, to: Path, artifact: Artifact) -> None:
    with to.open("wb") as file:
        for chunk in storage.chunks(path, 0, storage.size_bytes(path)):
            artifact.check()
            file.write(chunk)


def _run(folder: Path, artifact: Artifact) -> None:
    """Start the process and wait for it; whoever may end the export ends it, too."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "app.artifacts.export.live_worker"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment(folder, PYTHONWARNINGS="ignore"),
        start_new_session=True,
    )
    with worker:
        try:
            while worker.poll() is None:
                artifact.check()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(LOOK_EVERY_S)
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)


def _check_answer(to: ExportFormat, folder: Path) -> None:
    try:
        answer = Answer.model_validate_json((folder / ANSWER).read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise OutOfMemory(
            f"making the artifact {to} took more memory or time than it may; submit the job "
            "without this form"
        ) from error
    if answer.code is not None:
        raise ERRORS.get(answer.code, PaletteryError)(answer.detail)
    if not (folder / OUT).is_file():
        raise InvalidArtifact(f"the converter to {to} wrote nothing; submit the job without it")
