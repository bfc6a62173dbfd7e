"""Export models that run, in a sandbox, for `sandboxed`."""

import contextlib
import importlib
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palettery.app.artifacts.export.inputs import open_inputs
from palettery.app.artifacts.export.live_model import is_out_of_memory, load_program, states_of
from palettery.app.artifacts.export.sandboxed import OUT, ExportRequest
from palettery.app.checkpoints.pt2_runnable import read_runnable
from palettery.app.errors import PaletteryError, UnsupportedFormat
from palettery.app.settings import Limits

SAID_CHARACTERS = 2_000
"""Kept of what a converter says."""
PACKAGES = {"coreai": "model.aimodel", "coreml": "model.mlpackage"}
"""Format -> name of the folder that it is."""


def answer(request: bytes) -> bytes:
    """Write what a request asks for into the current folder; the answer is empty."""
    _export(Path.cwd(), ExportRequest.model_validate_json(request))
    return b""


def _export(folder: Path, request: ExportRequest) -> None:
    converter: Any = importlib.import_module(f"palettery.app.artifacts.export.{request.to}")
    artifact, source = open_inputs(request.inputs, folder)
    runnable = read_runnable(source.storage, source.file, Limits())
    package = folder / PACKAGES[request.to]
    with _told(f"torch and the converter to {request.to}"):
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
        if is_out_of_memory(error):
            raise MemoryError from error
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
