"""Run a model before and after, on the same inputs, in a sandbox."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from palettery.app.artifacts.export.inputs import Inputs, bounds_of, lay_out
from palettery.app.artifacts.export.request import ExportSource
from palettery.app.artifacts.reader import Artifact
from palettery.app.errors import BadInput, SandboxCrashed
from palettery.app.sandbox import run, working_folder
from palettery.app.settings import Limits
from palettery.schemas.base import Schema
from palettery.schemas.evaluation import ComparedOutput

INPUTS = "inputs.safetensors"
"""File of the model's inputs in the sandbox's folder."""
MEMORY_TIMES = 64
"""Tensors of the size of the inputs that a model has room for."""
OUTPUTS = TypeAdapter(list[ComparedOutput])


class EvaluationRequest(Schema):
    """What the process is asked for."""

    inputs: Inputs
    tensors_name: str
    """Of the file of the model's inputs, for messages."""
    limits: Limits


def evaluate(
    source: ExportSource, artifact: Artifact, inputs: Path, limits: Limits
) -> Sequence[ComparedOutput]:
    """Each output of the model in a `.pt2`, compared with what it is with an artifact's weights.

    The inputs are tensors of a safetensors file, by the names that the model gives them.

    Raises:
        BadInput: see `read_pt2` and `read_runnable`; or the inputs are not the model's.
        InvalidArtifact: it is of another model.
        PaletteryError: see `palettery.app.sandbox.run`.
    """
    _check_readable(inputs)
    with working_folder() as folder:
        copied = lay_out(artifact, source, folder)
        shutil.copyfile(inputs, folder / INPUTS)
        request = EvaluationRequest(inputs=copied, tensors_name=str(inputs), limits=limits)
        more_bytes = MEMORY_TIMES * inputs.stat().st_size
        answer = run(
            "palettery.app.evaluation.worker",
            request.model_dump_json().encode(),
            folder,
            bounds_of(copied, limits.sandbox, more_bytes),
            what="running the model",
            required=limits.sandbox.required,
            check=artifact.check,
        )
    try:
        return OUTPUTS.validate_json(answer)
    except ValidationError as error:
        raise SandboxCrashed("running the model gave an answer that cannot be read") from error


def _check_readable(inputs: Path) -> None:
    try:
        with safe_open(inputs, "numpy"):
            pass
    except (OSError, SafetensorError) as error:
        raise BadInput(f"the inputs {inputs} are no safetensors file: {error}") from error
