"""Exports of runnable models: torch and the converters run in a sandbox.

Its folder holds the artifact's files and the uploaded `.pt2`. The sandboxed process writes the
export there, reads it back and compares it.
"""

from collections.abc import Mapping, Sequence

from palettery.app.artifacts.export.request import ExportRequest
from palettery.app.artifacts.export.sandbox_files import (
    SandboxFiles,
    copy_to_sandbox,
    sandbox_bounds,
)
from palettery.app.errors import InvalidArtifact
from palettery.app.sandbox import open_regular, run, working_folder
from palettery.app.storage.base import CHUNK_BYTES
from palettery.schemas.base import Schema
from palettery.schemas.exports import ExportFormat

OUT = "out"
"""File that the process writes in the folder."""
READABLE_PATHS: Mapping[str, Sequence[str]] = {"coreai": ["/proc"]}
"""Paths that a converter may read besides its own files. Core AI's runtime reads
/proc/<thread>/stat, and crashes without; memory and environments of other processes stay hidden."""


class ConversionRequest(Schema):
    """Request to the sandboxed process."""

    to: ExportFormat
    dense: tuple[str, ...]
    files: SandboxFiles


def convert_in_sandbox(to: ExportFormat, request: ExportRequest) -> str:
    """Convert a model to a runnable format in a sandbox; return the SHA-256 of the export.

    Raises:
        UnsupportedFormat: torch cannot load the graph, or the converter does not support it.
        InvalidArtifact: the export differs from the artifact.
        PaletteryError: see `palettery.app.sandbox.run`.
    """
    assert request.source is not None  # noqa: S101 - `check_source` has checked it
    with working_folder() as folder:
        files = copy_to_sandbox(request.artifact, request.source, folder)
        conversion = ConversionRequest(to=to, dense=tuple(request.dense), files=files)
        run(
            "palettery.app.artifacts.export.worker",
            conversion.model_dump_json().encode(),
            folder,
            sandbox_bounds(files.dense_bytes, request.sandbox),
            what=f"making the artifact {to}",
            required=request.sandbox.required,
            imports=[
                "palettery.app.artifacts.export.live_model",
                f"palettery.app.artifacts.export.{to}",
            ],
            by_name=READABLE_PATHS.get(to, ()),
            variables={"PYTHONWARNINGS": "ignore"},
            check=request.artifact.check,
        )
        try:
            with open_regular(folder / OUT) as file:
                return request.write(iter(lambda: file.read(CHUNK_BYTES), b""))
        except FileNotFoundError as error:
            raise InvalidArtifact(
                f"the converter to {to} wrote nothing; submit the job without it"
            ) from error
