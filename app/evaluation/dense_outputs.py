"""Outputs of a model before palettization, stored once for any number of evaluations."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from typing import BinaryIO

from palettery.app.errors import SandboxCrashed, TooLarge
from palettery.app.evaluation.goals import Goal, missed_goals
from palettery.app.inference.model_files import Advance, Inputs, copy_model
from palettery.app.inference.run_model import ModelRequest, run_model
from palettery.app.sandbox import open_regular, working_folder
from palettery.app.settings import Limits
from palettery.app.storage.stored_files import StoredFiles
from palettery.app.version import SOFTWARE
from palettery.schemas.base import Schema
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.evaluation import ComparedOutput

OUTPUTS = "outputs.zip"
"""File in the sandbox's folder."""
MAX_OUTPUTS = 1_000
"""Maximum number of outputs of a model that are compared."""
OVERHEAD_BYTES = 64 << 20
"""Maximum size of the file in addition to the outputs themselves."""
FORMAT = 1
"""Increased when the same model and inputs give another file than before."""


class DenseOutputs(Schema):
    """Response of the sandboxed process."""

    samples: int
    is_stored: bool
    """Whether the outputs are in the file; they are not if they are too large."""
    outputs: tuple[ComparedOutput, ...]
    """Comparison of the first batch's outputs with themselves: it has the measures of each."""


def outputs_key(model: Sequence[StoredFile], inputs: Sequence[StoredFile]) -> str:
    """Return a cache key: the digest of everything that a model's outputs depend on."""
    files = [[(file.name, file.sha256) for file in files] for files in (model, inputs)]
    parts = [FORMAT, sorted(files[0]), files[1], SOFTWARE]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def dense_outputs(
    model: StoredFiles,
    inputs: Inputs,
    limits: Limits,
    store: Callable[[BinaryIO], None],
    *,
    goals: Sequence[Goal] = (),
    check_cancelled: Callable[[], None] = lambda: None,
    advance: Advance = lambda *_: None,
) -> DenseOutputs:
    """Run a model on inputs; `store` is called with the file of its outputs, unless too large.

    Raises:
        BadInput: the model cannot be run, the inputs do not fit it, or no output has a number for
            a goal.
        PaletteryError: see `palettery.app.sandbox.run`.
    """
    with working_folder() as folder:
        files = copy_model(model, inputs, folder, check_cancelled)
        outputs = run_model(
            "palettery.app.evaluation.dense_outputs_worker",
            ModelRequest(files=files, limits=limits),
            folder,
            sum(file.size_bytes for file in model.files),
            DenseOutputs,
            check_cancelled=check_cancelled,
            advance=advance,
            what="running the model on the inputs",
        )
        if len(outputs.outputs) > MAX_OUTPUTS:
            raise TooLarge(
                f"the model has {len(outputs.outputs):,} outputs; {MAX_OUTPUTS:,} can be compared: "
                "export it with fewer"
            )
        list(
            missed_goals(goals, outputs.outputs)
        )  # raises for a goal that no output has a measure for
        if outputs.is_stored:
            with open_regular(folder / OUTPUTS) as file:
                _check_size(file, limits)
                store(file)
    return outputs


def _check_size(file: BinaryIO, limits: Limits) -> None:
    """Check the size of the file: a sandboxed process is not trusted to respect its limit."""
    if os.fstat(file.fileno()).st_size > limits.output_bytes + OVERHEAD_BYTES:
        raise SandboxCrashed("running the model on the inputs wrote more than its outputs")
