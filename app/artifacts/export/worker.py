"""Sandboxed process that exports runnable models, started by `sandboxed`."""

import importlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from palettery.app.artifacts.export.live_model import (
    artifact_state_dict,
    library_errors,
    load_program,
)
from palettery.app.artifacts.export.sandbox_files import open_sandbox_files
from palettery.app.artifacts.export.sandboxed import OUT, ConversionRequest
from palettery.app.checkpoints.pt2_runnable import read_runnable
from palettery.app.errors import UnsupportedFormat
from palettery.app.settings import Limits

MAX_MESSAGE_CHARACTERS = 2_000
"""Most characters of a converter's message."""
OUTPUTS = {"coreai": "model.aimodel", "coreml": "model.mlpackage", "onnx": "model.onnx"}
"""Format -> name of the package or file that the converter writes."""


def answer(request: bytes) -> bytes:
    """Export into the current folder; the response is empty."""
    _export(Path.cwd(), ConversionRequest.model_validate_json(request))
    return b""


def _export(folder: Path, request: ConversionRequest) -> None:
    converter: Any = importlib.import_module(f"palettery.app.artifacts.export.{request.to}")
    artifact, source = open_sandbox_files(request.files, folder)
    runnable = read_runnable(source.storage, source.file, Limits())
    written = folder / OUTPUTS[request.to]
    with library_errors(partial(_unsupported, f"torch and the converter to {request.to}")):
        program = load_program(runnable, artifact_state_dict(artifact), source, folder)
        converter.convert(program, artifact, request.dense, written)
    reader_errors = library_errors(partial(_unsupported, f"the reader of {request.to}"))
    with _read_back(written, folder) as path, reader_errors:
        converter.check(path, program, artifact, request.dense)


@contextmanager
def _read_back(written: Path, folder: Path) -> Iterator[Path]:
    """Make what a converter has written the one file of the export; yield it, or it unpacked."""
    out = folder / OUT
    if written.is_file():
        written.rename(out)
        yield out
        return
    _zip(written, out)
    with tempfile.TemporaryDirectory(dir=folder) as unpacked:
        with zipfile.ZipFile(out) as archive:
            archive.extractall(unpacked)
        yield Path(unpacked) / written.name


def _unsupported(library: str, error: Exception) -> UnsupportedFormat:
    message = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_MESSAGE_CHARACTERS]
    return UnsupportedFormat(
        f"{library} cannot take this model ({message}); submit the job without this format"
    )


def _zip(package: Path, to: Path) -> None:
    """Zip a package, reproducibly; palettes do not compress further."""
    with zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(package.rglob("*")):
            if path.is_file():
                member = zipfile.ZipInfo(str(path.relative_to(package.parent)))
                member.external_attr = 0o644 << 16
                member.file_size = path.stat().st_size
                with path.open("rb") as source, archive.open(member, "w") as target:
                    shutil.copyfileobj(source, target, 8 << 20)
