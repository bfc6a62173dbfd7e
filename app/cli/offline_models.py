"""Commands that run a model locally: calibration and evaluation."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from palettery.app.artifacts.files import open_files
from palettery.app.calibration.calibrate import SECOND_MOMENTS
from palettery.app.calibration.calibrate import calibrate as run_calibration
from palettery.app.calibration.tensor_matching import (
    matched_names,
    matched_second_moments,
    read_calibration,
    write_sensitivities,
)
from palettery.app.checkpoints.local_files import expand_path, stored_files
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.errors import BadInput, Conflict
from palettery.app.evaluation.artifact_outputs import WrittenOutputs, write_artifact_outputs
from palettery.app.evaluation.evaluate import evaluate as run_evaluation
from palettery.app.evaluation.goals import parse_goal
from palettery.app.inference.image_inputs import images as run_images
from palettery.app.inference.model_files import CONFIG, Advance
from palettery.app.inference.text_inputs import read_texts
from palettery.app.inference.text_inputs import tokenize as run_tokenizer
from palettery.app.planning.second_moments import SecondMoments
from palettery.app.sandbox.working_folder import remove_tree
from palettery.app.settings import Limits, read_settings
from palettery.app.storage.output_files import Output, check_distinct
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.calibration import Calibration, CalibrationOptions
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.evaluation import Evaluation


def calibrate(
    paths: Sequence[Path],
    inputs: Sequence[Path],
    out: Path,
    options: CalibrationOptions,
    advance: Advance,
) -> Calibration:
    """Calibrate a model on inputs, into a new folder.

    What is done is kept beside `out` until it is there; the same command goes on from it.

    Raises:
        BadInput: see `palettery.app.calibration.calibrate`; or `out` exists.
    """
    output = Output(out, or_folder=True)
    if output.resolved_path.exists():
        raise BadInput(f"{output} exists; name a new folder")
    files = [file for path in paths for file in expand_path(path)]
    check_distinct([output], model=files, inputs=inputs)
    model, limits = stored_files(paths, digests=True), read_settings().limits
    checkpoint = _read_weights(model, limits)
    folder = output.sibling("calibration")
    with _alone(output.sibling("lock"), output), output:
        made = output.folder / "made"
        made.mkdir()
        try:
            result = run_calibration(
                model, checkpoint, inputs, options, limits, folder, made, advance
            )
        except BadInput:
            remove_tree(folder)  # another try would fail alike
            raise
        output.publish(made)
        remove_tree(folder)
    return result


def evaluate(
    model: Path,
    paths: Sequence[Path],
    inputs: Sequence[Path],
    advance: Advance,
    *,
    goals: Sequence[str] = (),
    calibration: Path | None = None,
    per_sample: bool = False,
) -> Evaluation:
    """Compare the outputs of a model before and after palettization, on these inputs.

    Raises:
        BadInput: see `palettery.app.evaluation.evaluate`.
    """
    return run_evaluation(
        stored_files([model], digests=False),
        open_files(paths),
        inputs,
        read_settings().limits,
        goals=[parse_goal(goal) for goal in goals],
        calibrated=read_calibration(calibration).sample_sha256 if calibration else (),
        per_sample=per_sample,
        advance=advance,
    )


def run(
    model: Path, paths: Sequence[Path], inputs: Sequence[Path], out: Path, advance: Advance
) -> WrittenOutputs:
    """Write the outputs of a model with an artifact's weights, on these inputs.

    Raises:
        BadInput: see `palettery.app.evaluation.artifact_outputs`.
    """
    output = Output(out)
    artifact = [file for path in paths for file in expand_path(path)]
    check_distinct([output], model=expand_path(model), artifact=artifact, inputs=inputs)
    with output:
        made = output.folder / "outputs"
        stored, limits = stored_files([model], digests=False), read_settings().limits
        result = write_artifact_outputs(stored, open_files(paths), inputs, limits, made, advance)
        output.publish(made)
    return result


def tokenize(
    folder: Path,
    texts: Sequence[Path],
    out: Path,
    *,
    separator: str | None,
    first: int,
    count: int | None,
    max_length: int,
) -> int:
    """Write texts as inputs of a Hugging Face folder's model; return their number.

    Raises:
        BadInput: see `palettery.app.inference.text_inputs`.
    """
    output = Output(out)
    check_distinct([output], texts=texts)
    chosen = read_texts(texts, separator)[first:][:count]
    with output:
        made = output.folder / "inputs"
        run_tokenizer(folder, chosen, max_length, read_settings().limits.sandbox, made)
        output.publish(made)
    return len(chosen)


def images(
    folder: Path,
    out: Path,
    *,
    tensor: str,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> int:
    """Write the pictures of a folder as inputs of a model; return their number.

    Raises:
        BadInput: see `palettery.app.inference.image_inputs`.
    """
    with Output(out) as output:
        made, sandbox = output.folder / "inputs", read_settings().limits.sandbox
        count = run_images(folder, sandbox, made, tensor=tensor, size=size, mean=mean, std=std)
        output.publish(made)
    return count


@dataclass(frozen=True)
class UsedCalibration:
    """What a calibration gives to the palettization of a model."""

    sensitivities: list[Path]
    """File under the names of the model's tensors; empty without a calibration."""
    second_moments: SecondMoments | None = None
    """Second moments under those names; None without a calibration, or without feedback."""


@contextmanager
def used_calibration(
    calibration: Path | None, paths: Sequence[Path], *, feedback: bool = True
) -> Iterator[UsedCalibration]:
    """Match a calibration with a model; its sensitivities are in a temporary file meanwhile.

    Raises:
        BadInput: the calibration cannot be read, or is of other weights.
    """
    if calibration is None:
        yield UsedCalibration([])
        return
    model, limits = stored_files(paths, digests=False), read_settings().limits
    checkpoint = _read_weights(model, limits)
    tensors = read_calibration(calibration)
    names = matched_names(tensors, model.storage, checkpoint)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "sensitivities.safetensors")
        write_sensitivities(calibration, tensors, names, path)
        moments = None
        if feedback:
            files = stored_files([calibration / SECOND_MOMENTS], digests=True)
            stored = read_checkpoint(files.storage, files.files, limits)
            matched = matched_second_moments(tensors, names, stored)
            moments = SecondMoments(matched, files.storage.url)
        yield UsedCalibration([path], moments)


def _read_weights(model: StoredFiles, limits: Limits) -> Checkpoint:
    """Read the headers of a model, whose module types do not matter here."""
    files = [file for file in model.files if file.name != CONFIG]
    return read_checkpoint(model.storage, files, limits)


@contextmanager
def _alone(lock: Path, output: Output) -> Iterator[None]:
    """Hold a lock, so that no two processes make the same output.

    Raises:
        Conflict: another process holds it.
    """
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise Conflict(
            f"another process is making {output}; wait for it, or name another"
        ) from error
    finally:
        lock.unlink(missing_ok=True)
