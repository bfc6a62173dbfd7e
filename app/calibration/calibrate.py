"""Calibration: a run of a model on inputs that measures how much each of its weights matters.

The sensitivity of a weight w is the mean of (d(v.y)/dw)^2 over samples and over random directions v
in the space of the outputs y: how much a change of w moves the outputs. The second moments of a
layer are the mean of x x^T over its inputs x.
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from palettery.app.checkpoints.dense import dense_chunks
from palettery.app.inference.model_files import Advance, Inputs, copy_model
from palettery.app.inference.run_model import ModelRequest, run_model
from palettery.app.sandbox import open_regular
from palettery.app.settings import Limits
from palettery.app.storage.base import CHUNK_BYTES, Storage
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.calibration import (
    CalibratedTensor,
    Calibration,
    CalibrationOptions,
    CalibrationResult,
)
from palettery.schemas.checkpoint import Checkpoint, StoredTensor

SENSITIVITIES, SECOND_MOMENTS = "sensitivities.safetensors", "second_moments.safetensors"
"""Files with the means of the result, and with the sums while a calibration runs."""
CALIBRATION_FILE, MEANS_FOLDER, KEY_FILE = "calibration.json", "means", "key"
"""Names in the working folder: result, folder of its tensors, and digest of all arguments."""
STATE_PREFIX, PROGRESS_FILE = "state-", "progress.json"
"""Prefix of folders with saved sums, and the file in such a folder that counts their samples."""
SAVE_INTERVAL_FACTOR = 20
"""Minimum time between two saves of the sums, as a multiple of the duration of the last one."""


class CalibrationRequest(ModelRequest):
    """Request to the sandboxed process."""

    options: CalibrationOptions


def calibrate(
    model: StoredFiles,
    checkpoint: Checkpoint,
    inputs: Sequence[Path],
    options: CalibrationOptions,
    limits: Limits,
    folder: Path,
    out: Path,
    advance: Advance,
) -> Calibration:
    """Run a model on inputs in a sandbox, and write the result into the empty folder `out`.

    Progress is saved in `folder`, and the same call resumes from it.

    Raises:
        BadInput: the model cannot be run, or the inputs do not fit it.
        PaletteryError: see `palettery.app.sandbox.run`.
    """
    _prepare_folder(model, inputs, options, folder)
    return calibrate_in(folder, model, checkpoint, inputs, options, limits, out, advance)


def calibrate_in(
    folder: Path,
    model: StoredFiles,
    checkpoint: Checkpoint,
    inputs: Inputs,
    options: CalibrationOptions,
    limits: Limits,
    out: Path,
    advance: Advance,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Calibration:
    """Calibrate as `calibrate` does, resuming from sums of the same calibration in `folder`.

    Args:
        folder: Working folder of the sandboxed process.
        model: Files of the model.
        checkpoint: Its headers.
        inputs: Files with samples.
        options: How to calibrate.
        limits: Limits of the process, among others.
        out: Empty folder for the result.
        advance: Called with the progress.
        check_cancelled: Called regularly; an error that it raises ends the process.
    """
    files = copy_model(model, inputs, folder, check_cancelled)
    result = run_model(
        "palettery.app.calibration.worker",
        CalibrationRequest(files=files, options=options, limits=limits),
        folder,
        checkpoint.tensor_bytes(),
        CalibrationResult,
        check_cancelled=check_cancelled,
        advance=advance,
    )
    calibration = _build_calibration(result, options, model.storage, checkpoint)
    for name in (SENSITIVITIES, SECOND_MOMENTS):
        with (
            open_regular(folder / MEANS_FOLDER / name) as source,
            (out / name).open("wb") as target,
        ):
            shutil.copyfileobj(source, target, CHUNK_BYTES)
    (out / CALIBRATION_FILE).write_text(calibration.model_dump_json(indent=2) + "\n", "utf-8")
    return calibration


def content_sha256(storage: Storage, checkpoint: Checkpoint, tensor: StoredTensor) -> str:
    """Return the SHA-256 digest of a tensor's dtype, shape and values."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    for chunk in dense_chunks(storage, checkpoint.files[tensor.file].path, tensor):
        digest.update(chunk)
    return digest.hexdigest()


def _prepare_folder(
    model: StoredFiles, inputs: Sequence[Path], options: CalibrationOptions, folder: Path
) -> None:
    """Empty the folder, unless its sums are of the same calibration."""
    digest = hashlib.sha256(options.model_dump_json().encode())
    for file in model.files:
        digest.update(f"{file.name} {file.sha256}".encode())
    for path in inputs:
        with path.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    key = digest.hexdigest()
    with suppress(FileNotFoundError), open_regular(folder / KEY_FILE) as key_file:
        if key_file.read(len(key)).decode(errors="replace") == key:
            for name in ("answer", "outcome"):
                (folder / name).unlink(missing_ok=True)
            return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / KEY_FILE).write_text(key, "utf-8")


def _build_calibration(
    result: CalibrationResult,
    options: CalibrationOptions,
    storage: Storage,
    checkpoint: Checkpoint,
) -> Calibration:
    unreached = {*result.unreached}
    tensors = tuple(
        CalibratedTensor(
            name=tensor.name,
            aliases=tensor.aliases,
            sha256=content_sha256(storage, checkpoint, tensor),
            second_moments=result.second_moments.get(tensor.name),
        )
        for tensor in checkpoint.tensors
        if is_calibrated(tensor) and tensor.name not in unreached
    )
    return Calibration(
        options=options,
        samples=result.samples,
        sample_sha256=result.sample_sha256,
        outputs=result.outputs,
        tensors=tensors,
        unreached=result.unreached,
        warnings=result.warnings,
    )


def is_calibrated(tensor: StoredTensor) -> bool:
    """Return whether a tensor is a weight that calibration measures."""
    return len(tensor.shape) > 1 and tensor.dtype in ("F16", "BF16", "F32", "F64")
