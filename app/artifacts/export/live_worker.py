"""Makes forms of models that run; a process of its own.

`python -m app.artifacts.export.live_worker` works in a folder that `app.artifacts.export.apart`
laid out. It shares no memory and no environment with the service, and limits itself.
"""

import contextlib
import importlib
import resource
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.artifacts.export.apart import (
    ANSWER,
    ARTIFACT,
    OUT,
    REQUEST,
    UPLOAD,
    Answer,
    Request,
)
from app.artifacts.export.order import Source
from app.artifacts.files import open_files
from app.confined import limit, limit_memory
from app.errors import PaletteryError, UnsupportedFormat
from app.settings import Limits
from app.storage import open_storage
from schemas.checkpoint import StoredFile

MEMORY_BYTES, MEMORY_TIMES = 8 << 30, 8
"""Address space beyond what importing takes, and how many times the model it may be more."""
TIME_S = 3_600
"""Of processor."""
SAID_CHARACTERS = 2_000
"""Kept of what a converter says."""
PACKAGES = {"coreai": "model.aimodel", "coreml": "model.mlpackage"}
"""Format -> name of the folder that it is."""


def main() -> None:
    """Do what the request in this folder asks for."""
    folder = Path.cwd()
    try:
        _export(folder, Request.model_validate_json((folder / REQUEST).read_bytes()))
        answer = Answer()
    except PaletteryError as error:
        answer = Answer(code=error.code, detail=error.detail)
    except MemoryError:
        return  # no answer says so
    (folder / ANSWER).write_text(answer.model_dump_json())


def _export(folder: Path, request: Request) -> None:
    from app.artifacts.export.live import load_program, states_of
    from app.checkpoints.pt2_runnable import read_runnable

    converter: Any = importlib.import_module(f"app.artifacts.export.{request.to}")
    _limit(request)
    artifact = open_files([folder / ARTIFACT / name for name in request.files])
    storage = open_storage(folder.as_uri())
    size_bytes = (folder / UPLOAD).stat().st_size
    file = StoredFile(name=request.name, path=UPLOAD, size_bytes=size_bytes)
    runnable = read_runnable(storage, file, Limits())
    package = folder / PACKAGES[request.to]
    with _told(f"torch and the converter to {request.to}"):
        source = Source(storage, file)
        program = load_program(runnable, states_of(artifact), source, folder)
        converter.convert(program, artifact, request.dense, package)
    _zip(package, folder / OUT)
    with tempfile.TemporaryDirectory(dir=folder) as again:
        with zipfile.ZipFile(folder / OUT) as archive:
            archive.extractall(again)
        with _told(f"the reader of {request.to}"):
            converter.check(Path(again) / package.name, program, artifact, request.dense)


@contextlib.contextmanager
def _told(by: str) -> Iterator[None]:
    """What libraries raise, as an error of ours."""
    try:
        yield
    except (PaletteryError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:SAID_CHARACTERS]
        raise UnsupportedFormat(
            f"{by} cannot take this model ({said}); submit the job without this form"
        ) from error


def _zip(package: Path, to: Path) -> None:
    """A folder as one file, the same for the same files; weights are as small as they get."""
    with zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(package.rglob("*")):
            if path.is_file():
                named = zipfile.ZipInfo(str(path.relative_to(package.parent)))
                named.external_attr = 0o644 << 16
                named.file_size = path.stat().st_size
                with path.open("rb") as read, archive.open(named, "w") as written:
                    while data := read.read(8 << 20):
                        written.write(data)


def _limit(request: Request) -> None:
    room = MEMORY_BYTES + MEMORY_TIMES * request.dense_bytes
    limit(resource.RLIMIT_CPU, TIME_S)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, room)
    limit_memory(room)


if __name__ == "__main__":
    main()
