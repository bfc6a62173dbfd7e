"""Tasks of an evaluation: the model's own outputs, and their comparison with the artifact's."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from palettery.app.artifacts.reader import open_artifact
from palettery.app.compression.cancellation import CancellationCheck
from palettery.app.compression.job_folder import (
    artifact_path,
    read_calibration_samples,
    read_report,
    read_request,
    write_report,
)
from palettery.app.errors import SandboxCrashed
from palettery.app.evaluation.dense_outputs import dense_outputs
from palettery.app.evaluation.evaluate import evaluate
from palettery.app.evaluation.goals import quality_goals
from palettery.app.inference.model_files import Advance, copy_object
from palettery.app.settings import Limits
from palettery.app.storage.base import CHUNK_BYTES, Storage
from palettery.app.storage.open import shared_storage
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.evaluation import Evaluation
from palettery.schemas.tasks import EvaluateTask, OutputsTask, StoredOutputs

MAX_RESULT_BYTES = 8 << 20
"""Largest result; one of a thousand outputs has less."""


def store_outputs(task: OutputsTask, advance: Advance) -> StoredOutputs:
    """Store the outputs of a job's model before palettization, unless they are too large.

    Raises:
        BadInput: see `dense_outputs`.
        Cancelled: see `CancellationCheck`.
    """
    store = shared_storage(task.store_url)
    check = CancellationCheck(store, task.cancel_path)
    size_bytes = 0

    def write(file: BinaryIO) -> None:
        nonlocal size_bytes
        store.write(task.outputs_path, iter(lambda: file.read(CHUNK_BYTES), b""))
        size_bytes = file.tell()

    outputs = dense_outputs(
        _model(store, task),
        StoredFiles(store, task.inputs),
        Limits(),
        write,
        goals=quality_goals(task.at_least),
        check_cancelled=check,
        advance=advance,
    )
    return StoredOutputs(samples=outputs.samples, size_bytes=size_bytes)


def evaluate_artifact(task: EvaluateTask, advance: Advance) -> Evaluation:
    """Compare the outputs of a job's artifact with those of its model.

    Raises:
        BadInput: see `evaluate`.
        Cancelled: see `CancellationCheck`.
    """
    store = shared_storage(task.store_url)
    check = CancellationCheck(store, task.cancel_path)
    report = read_report(store, task.prefix)
    names = (name for name in report.artifact_sha256 if not name.endswith(".json"))
    paths = [artifact_path(task.prefix, name) for name in names]
    outputs: Callable[[Path], None] | None = None
    if store.exists(task.outputs_path):
        outputs = partial(copy_object, store, task.outputs_path, check_cancelled=check)
    evaluation = evaluate(
        _model(store, task),
        replace(open_artifact(store, paths, Limits()), check=check),
        StoredFiles(store, task.inputs),
        Limits(),
        goals=quality_goals(task.at_least),
        calibrated=read_calibration_samples(store, task.prefix),
        per_sample=True,
        outputs=outputs,
        advance=advance,
    )
    check.check_now()
    samples, evaluation = evaluation.compared_samples(), evaluation.with_samples(None)
    if len(evaluation.model_dump_json()) > MAX_RESULT_BYTES:
        raise SandboxCrashed("the answer of running the model is too large")
    if samples is not None:
        store.write(task.samples_path, samples.model_dump_json().encode())
    if task.writes_report:
        write_report(store, task.prefix, report.model_copy(update={"evaluation": evaluation}))
    return evaluation


def _model(store: Storage, task: OutputsTask) -> StoredFiles:
    return StoredFiles(store, read_request(store, task.prefix).checkpoint.files)
