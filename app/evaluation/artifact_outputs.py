"""Outputs of a model with an artifact's weights, written to a file."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from palettery.app.artifacts.export.sandbox_files import copy_artifact
from palettery.app.artifacts.reader import Artifact
from palettery.app.errors import SandboxCrashed
from palettery.app.evaluation.dense_outputs import OVERHEAD_BYTES
from palettery.app.inference.model_files import Advance, copy_model
from palettery.app.inference.run_model import ModelRequest, run_model
from palettery.app.sandbox import open_regular, working_folder
from palettery.app.settings import Limits
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.base import Schema

OUTPUTS = "outputs.safetensors"
"""File in the sandbox's folder."""


class OutputsRequest(ModelRequest):
    """Request to the sandboxed process."""

    artifact: tuple[str, ...]
    """Names of the artifact's files, in order."""


class WrittenOutputs(Schema):
    """Answer of the sandboxed process."""

    samples: int
    shapes: dict[str, tuple[int, ...]]
    """Name of an output -> its shape."""


def write_artifact_outputs(
    model: StoredFiles,
    artifact: Artifact,
    inputs: Sequence[Path],
    limits: Limits,
    to: Path,
    advance: Advance = lambda *_: None,
) -> WrittenOutputs:
    """Run a model with an artifact's weights; write its outputs as safetensors.

    Raises:
        BadInput: the model cannot be run, or the inputs do not fit it.
        InvalidArtifact: the artifact is of another model.
        TooLarge: the outputs are over the limit.
        PaletteryError: see `palettery.app.sandbox.run`.
    """
    with working_folder() as folder:
        names, dense_bytes = copy_artifact(artifact, folder)
        files = copy_model(model, inputs, folder, artifact.check)
        outputs = run_model(
            "palettery.app.evaluation.artifact_outputs_worker",
            OutputsRequest(files=files, artifact=names, limits=limits),
            folder,
            dense_bytes,
            WrittenOutputs,
            check_cancelled=artifact.check,
            advance=advance,
        )
        with open_regular(folder / OUTPUTS) as source, to.open("wb") as target:
            if os.fstat(source.fileno()).st_size > limits.output_bytes + OVERHEAD_BYTES:
                raise SandboxCrashed("running the model wrote more than its outputs")
            shutil.copyfileobj(source, target)
    return outputs
