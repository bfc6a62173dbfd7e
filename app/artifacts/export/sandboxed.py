"""Forms of models that run: torch and the converters work in a sandbox.

What they get is a folder: the artifact's files and the uploaded `.pt2`. What they give back lies
there, too, and has been read back and compared by then.
"""

from collections.abc import Mapping, Sequence

from palettery.app.artifacts.export.inputs import Inputs, bounds_of, lay_out
from palettery.app.artifacts.export.request import Export
from palettery.app.errors import InvalidArtifact
from palettery.app.sandbox import open_regular, run, working_folder
from palettery.app.storage.base import CHUNK_BYTES
from palettery.schemas.base import Schema
from palettery.schemas.exports import ExportFormat

OUT = "out"
"""File in the folder that the process writes."""
BY_NAME: Mapping[str, Sequence[str]] = {"coreai": ["/proc"]}
"""What a converter reads beside its own files. Core AI's runtime looks at its threads, as
/proc/<thread>/stat, and crashes without; other processes' memory and environments are kept from it
all the same."""


class ExportRequest(Schema):
    """What the process is asked for."""

    to: ExportFormat
    dense: tuple[str, ...]
    inputs: Inputs


def write_apart(to: ExportFormat, wanted: Export) -> str:
    """Write a form of a model that runs; the digest of its file.

    Raises:
        UnsupportedFormat: the graph cannot be handed to torch, or the converter cannot take it.
        InvalidArtifact: what was written is not what the artifact says.
        PaletteryError: see `palettery.app.sandbox.run`.
    """
    assert wanted.source is not None  # noqa: S101 - `check_graph` saw to it
    with working_folder() as folder:
        inputs = lay_out(wanted.artifact, wanted.source, folder)
        request = ExportRequest(to=to, dense=tuple(wanted.dense), inputs=inputs)
        run(
            "palettery.app.artifacts.export.worker",
            request.model_dump_json().encode(),
            folder,
            bounds_of(inputs, wanted.sandbox),
            what=f"making the artifact {to}",
            required=wanted.sandbox.required,
            imports=[
                "palettery.app.artifacts.export.live_model",
                f"palettery.app.artifacts.export.{to}",
            ],
            by_name=BY_NAME.get(to, ()),
            variables={"PYTHONWARNINGS": "ignore"},
            check=wanted.artifact.check,
        )
        try:
            with open_regular(folder / OUT) as file:
                return wanted.put(iter(lambda: file.read(CHUNK_BYTES), b""))
        except FileNotFoundError as error:
            raise InvalidArtifact(
                f"the converter to {to} wrote nothing; submit the job without it"
            ) from error
