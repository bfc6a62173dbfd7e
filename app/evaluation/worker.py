"""Sandboxed process that runs a model before and after palettization, for `evaluate`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from palettery.app.artifacts.export.live_model import StateDict, artifact_state_dict
from palettery.app.artifacts.export.sandbox_files import open_artifact_files
from palettery.app.errors import InvalidArtifact
from palettery.app.evaluation.compare import OutputComparison, logits_outputs
from palettery.app.evaluation.dense_outputs import OUTPUTS
from palettery.app.evaluation.evaluate import EvaluationRequest
from palettery.app.evaluation.outputs_file import OutputsReader
from palettery.app.inference.inputs import Batch, InputFile, input_warnings
from palettery.app.inference.model import LiveModel, UnreadWeights
from palettery.app.inference.model_files import write_progress
from palettery.app.inference.model_source import ModelSource
from palettery.schemas.evaluation import Evaluation

OutputSource = Callable[[int, Batch], Sequence[torch.Tensor]]
"""Function of the number of a batch and the batch that returns its outputs before palettization."""
MAX_NAMED = 5
"""Maximum number of weights that a warning names."""
MAX_COMPARED_SAMPLES = 250_000
"""Maximum number of comparisons of single samples, over all outputs, in an answer."""
BATCH = 32
"""Number of samples that run at once, if the model takes any number."""


def answer(request: bytes) -> bytes:
    """Entry point in the sandbox: compare outputs before and after palettization."""
    evaluation, folder = EvaluationRequest.model_validate_json(request), Path.cwd()
    source = ModelSource(evaluation.files, folder, evaluation.limits)
    before, after = (
        source.state(),
        artifact_state_dict(open_artifact_files(evaluation.artifact, folder)),
    )
    check_same_shapes(before, after)
    model = source.open(after)
    files = source.inputs(model.signature)
    stored = evaluation.has_outputs
    source_before = (
        _stored_outputs(folder) if stored else _computed_outputs(source.open(before), files)
    )
    unread_weights = UnreadWeights(model.weights)
    comparisons = _compare(source_before, model, unread_weights, files, folder)
    compared = sum(len(each.by_sample) for each in comparisons)
    per_sample = evaluation.per_sample and compared <= MAX_COMPARED_SAMPLES
    unreached, calibrated = unread_weights.unreached(), {*evaluation.calibrated}
    warnings = (
        *input_warnings(files),
        *_calibration_warnings(files, calibrated),
        *_unreached_warnings(unreached),
        *_omission_warnings(compared if evaluation.per_sample else 0),
    )
    result = Evaluation(
        samples=sum(file.count for file in files),
        outputs=tuple(each.result(per_sample=per_sample) for each in comparisons),
        unreached=unreached,
        warnings=warnings,
    )
    return result.model_dump_json().encode()


def _computed_outputs(model: LiveModel, files: Sequence[InputFile]) -> OutputSource:
    return lambda _, batch: list(model.run(batch, files).values())


def _stored_outputs(folder: Path) -> OutputSource:
    reader = OutputsReader(folder / OUTPUTS)
    return lambda number, _: reader.read(number)


def _compare(
    before: OutputSource,
    model: LiveModel,
    unread_weights: UnreadWeights,
    files: Sequence[InputFile],
    folder: Path,
) -> Sequence[OutputComparison]:
    comparisons: dict[str, OutputComparison] = {}
    total, samples = sum(file.count for file in files), 0
    for number, batch in enumerate(batch for file in files for batch in file.batches(BATCH)):
        with torch.no_grad():
            outputs_before = before(number, batch)
            with unread_weights:
                new = model.run(batch, files)
            old = dict(zip(new, outputs_before, strict=True))
            logits = logits_outputs(old, batch)
            for name, output in old.items():
                if name not in comparisons:
                    comparisons[name] = OutputComparison(name, name in logits)
                comparisons[name].add(output, new[name], batch)
        samples += len(batch.samples)
        write_progress(folder, samples, total)
    return list(comparisons.values())


def _calibration_warnings(files: Sequence[InputFile], calibrated: set[str]) -> Sequence[str]:
    if not calibrated:
        return ()
    shared = sum(digest in calibrated for file in files for digest in file.digests())
    if not shared:
        return ()
    return (
        f"{shared:,} of these samples are samples of the calibration, on which the model is better "
        "than on others; evaluate on samples kept apart",
    )


def _unreached_warnings(unreached: Sequence[str]) -> Sequence[str]:
    if not unreached:
        return ()
    names = ", ".join(unreached[:MAX_NAMED]) + (", ..." if len(unreached) > MAX_NAMED else "")
    return (f"no input reached {len(unreached):,} weights, which may be of any quality: {names}",)


def _omission_warnings(compared: int) -> Sequence[str]:
    if compared <= MAX_COMPARED_SAMPLES:
        return ()
    return (
        f"the numbers of each sample are left out: there are {compared:,} of samples and outputs, "
        f"and {MAX_COMPARED_SAMPLES:,} are allowed; evaluate fewer samples at a time",
    )


def check_same_shapes(before: StateDict, after: StateDict) -> None:
    """Check that an artifact has the tensors of a model.

    Raises:
        InvalidArtifact: names the tensor that is missing, or of another shape.
    """
    for name, shape in before.shapes().items():
        if after.shapes().get(name) != shape:
            raise InvalidArtifact(
                f"the artifact has no {name} of shape {list(shape)}; is it of another model?"
            )
