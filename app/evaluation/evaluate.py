"""Evaluation: outputs of a model before and after palettization, on the same inputs."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from palettery.app.artifacts.export.request import ExportSource
from palettery.app.artifacts.export.sandbox_files import (
    SandboxFiles,
    copy_to_sandbox,
    sandbox_bounds,
)
from palettery.app.artifacts.reader import Artifact
from palettery.app.errors import BadInput, SandboxCrashed
from palettery.app.sandbox import run, working_folder
from palettery.app.settings import Limits
from palettery.schemas.base import Schema
from palettery.schemas.evaluation import ComparedOutput

INPUTS = "inputs.safetensors"
"""File of the model's inputs in the sandbox's folder."""
MEMORY_TIMES = 64
"""Memory for activations, in sizes of the inputs."""
OUTPUTS = TypeAdapter(list[ComparedOutput])


class EvaluationRequest(Schema):
    """Request to the sandboxed process."""

    files: SandboxFiles
    inputs_name: str
    """Name of the file of the model's inputs, for messages."""
    limits: Limits


def evaluate(
    source: ExportSource, artifact: Artifact, inputs: Path, limits: Limits
) -> Sequence[ComparedOutput]:
    """Run the model of a `.pt2` with its own and with an artifact's weights; compare the outputs.

    The inputs are tensors of a safetensors file, under the model's names of its inputs.

    Raises:
        BadInput: see `read_pt2` and `read_runnable`; or the inputs do not fit the model.
        InvalidArtifact: the artifact is of another model.
        PaletteryError: see `palettery.app.sandbox.run`.
    """
    _check_readable(inputs)
    with working_folder() as folder:
        files = copy_to_sandbox(artifact, source, folder)
        shutil.copyfile(inputs, folder / INPUTS)
        request = EvaluationRequest(files=files, inputs_name=str(inputs), limits=limits)
        more_bytes = MEMORY_TIMES * inputs.stat().st_size
        answer = run(
            "palettery.app.evaluation.worker",
            request.model_dump_json().encode(),
            folder,
            sandbox_bounds(files, limits.sandbox, more_bytes),
            what="running the model",
            required=limits.sandbox.required,
            check=artifact.check,
        )
    try:
        return OUTPUTS.validate_json(answer)
    except ValidationError as error:
        raise SandboxCrashed("the answer of running the model cannot be read") from error


def _check_readable(inputs: Path) -> None:
    try:
        with safe_open(inputs, "numpy"):
            pass
    except (OSError, SafetensorError) as error:
        raise BadInput(f"the inputs {inputs} are no safetensors file: {error}") from error
