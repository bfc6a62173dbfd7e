"""Evaluation: outputs of a model before and after palettization, on the same inputs."""

from collections.abc import Callable, Sequence
from pathlib import Path

from palettery.app.artifacts.export.sandbox_files import copy_artifact
from palettery.app.artifacts.reader import Artifact
from palettery.app.evaluation.dense_outputs import OUTPUTS
from palettery.app.evaluation.goals import Goal, missed_goals
from palettery.app.inference.model_files import Advance, Inputs, copy_model
from palettery.app.inference.run_model import ModelRequest, run_model
from palettery.app.sandbox import working_folder
from palettery.app.settings import Limits
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.evaluation import Evaluation


class EvaluationRequest(ModelRequest):
    """Request to the sandboxed process."""

    artifact: tuple[str, ...]
    """Names of the artifact's files, in order."""
    calibrated: tuple[str, ...]
    """Digests of samples that the artifact was calibrated on."""
    per_sample: bool
    has_outputs: bool = False
    """Whether the folder has the outputs before palettization, which are computed otherwise."""


def evaluate(
    model: StoredFiles,
    artifact: Artifact,
    inputs: Inputs,
    limits: Limits,
    *,
    goals: Sequence[Goal] = (),
    calibrated: Sequence[str] = (),
    per_sample: bool = False,
    outputs: Callable[[Path], None] | None = None,
    advance: Advance = lambda *_: None,
) -> Evaluation:
    """Run a model with its original weights and with those of an artifact; compare the outputs.

    Args:
        model: A `.pt2`, or the files of a Hugging Face folder.
        artifact: An artifact of the same model.
        inputs: Safetensors files of the model's inputs, by name.
        limits: Limits of what is read and run.
        goals: Required values of measures.
        calibrated: Digests of samples of a calibration, which give a warning.
        per_sample: Whether to return the comparison of each sample.
        outputs: Function that writes the outputs that `dense_outputs` stored to a file; None
            computes them.
        advance: Called with (samples done, all samples).

    Raises:
        BadInput: the model cannot be run, or the inputs do not fit it.
        InvalidArtifact: the artifact is of another model.
        PaletteryError: see `palettery.app.sandbox.run`.
    """
    with working_folder() as folder:
        names, dense_bytes = copy_artifact(artifact, folder)
        files = copy_model(model, inputs, folder, artifact.check)
        if outputs is not None:
            outputs(folder / OUTPUTS)
        request = EvaluationRequest(
            files=files,
            artifact=names,
            calibrated=tuple(calibrated),
            per_sample=per_sample,
            has_outputs=outputs is not None,
            limits=limits,
        )
        evaluation = run_model(
            "palettery.app.evaluation.worker",
            request,
            folder,
            dense_bytes,
            Evaluation,
            check_cancelled=artifact.check,
            advance=advance,
        )
    missed = tuple(missed_goals(goals, evaluation.outputs))
    named = tuple(map(str, goals))
    return evaluation.model_copy(update={"goals": named, "missed": missed})
