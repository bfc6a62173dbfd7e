"""Commands without a server: the tasks of a job run one by one, in this process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from palettery.app.artifacts.export.formats import export_artifact
from palettery.app.artifacts.export.packages import check_package, is_package, unpack_package
from palettery.app.artifacts.export.request import ExportRequest, ExportSource
from palettery.app.artifacts.files import open_files
from palettery.app.checkpoints.file_formats import HEAD_BYTES, detect_format
from palettery.app.checkpoints.local_files import expand_path, stored_files
from palettery.app.compression.dispatch import perform
from palettery.app.compression.job_folder import (
    read_report,
    report_documents,
    stop_path,
    write_job,
)
from palettery.app.compression.layout import SHARD_BYTES
from palettery.app.dashboard.report_page import report_page
from palettery.app.errors import BadInput, PaletteryError, StorageFull, UnsupportedFormat
from palettery.app.execution.inline import run_tasks
from palettery.app.planning.job_plan import JobPlan, plan_job
from palettery.app.planning.tasks import cut_tasks
from palettery.app.settings import read_settings
from palettery.app.storage.base import Storage
from palettery.app.storage.open import open_storage
from palettery.app.storage.output_files import Output, check_apart, is_page
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.artifact import ArtifactSummary, StoredWeight
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.evaluation import ComparedOutput
from palettery.schemas.exports import ExportFormat
from palettery.schemas.plan import Plan
from palettery.schemas.report import Report
from palettery.schemas.tasks import CompressionTask, FinishTask, JobRequest

JOB = "job"
"""Folder of the job, in the temporary folder of its output."""
Advance = Callable[[int, int], None]
"""Progress callback, called with (bytes done, total bytes)."""


def plan(
    paths: Sequence[Path],
    config: KMeansPalettizerConfig,
    *,
    sensitivities: Sequence[Path] = (),
    strict: bool = False,
) -> Plan:
    """Return the plan of a job with this config on the model in these files."""
    model, weighting = _input_files(paths, sensitivities)
    return plan_job(config, model, weighting, read_settings().limits, strict=strict).plan


def compress(
    paths: Sequence[Path],
    config: KMeansPalettizerConfig,
    out: Path,
    advance: Advance,
    *,
    sensitivities: Sequence[Path] = (),
    strict: bool = False,
    report: Path | None = None,
) -> Report:
    """Palettize the model in these files into `out`: a file, or a folder if it is sharded.

    Nothing appears at `out` unless the whole artifact is verified. Then the report is written to
    `report`, as a page or as JSON.

    Raises:
        BadInput: the model or the config is invalid, or an output cannot be written.
        PaletteryError: writing an output failed; says which, and where the artifact is.
    """
    outputs = [Output(path) for path in (out, report) if path is not None]
    _check_outputs(outputs, model=paths, sensitivities=sensitivities)
    with ExitStack() as stack:
        artifact, *reports = [stack.enter_context(output) for output in outputs]
        store = stack.enter_context(_store_in(artifact))
        settings, (model, weighting) = read_settings(), _input_files(paths, sensitivities)
        job = plan_job(config, model, weighting, settings.limits, strict=strict)
        _check_fits(artifact, job.plan)
        done = _palettize(job, model, weighting, store, settings.task_bytes, advance)
        _publish(artifact.folder / JOB / "artifact", artifact)
        for output in reports:
            _write_report(output, done, store, artifact)
    return done


def _palettize(
    job: JobPlan,
    model: StoredFiles,
    sensitivities: StoredFiles | None,
    store: Storage,
    task_bytes: int,
    advance: Advance,
) -> Report:
    """Run the tasks of a job, as a worker does; its folder in the store is `JOB`."""
    tasks = cut_tasks(
        job.plan,
        job.checkpoint,
        source_url=model.storage.url,
        store_url=store.url,
        parts_prefix=f"{JOB}/parts",
        task_bytes=task_bytes,
        sensitivities=job.sensitivities,
        sensitivities_url=sensitivities.storage.url if sensitivities else None,
    )
    request = JobRequest(config=job.config, checkpoint=job.checkpoint, plan=job.plan)
    write_job(store, JOB, request, tasks)
    _run(tasks, advance)
    finish = FinishTask(
        store_url=store.url,
        prefix=JOB,
        cancel_path=stop_path(JOB, 0),
        source_url=model.storage.url,
    )
    perform(finish)
    store.delete_folder(f"{JOB}/parts")
    return read_report(store, JOB)


def inspect(paths: Sequence[Path]) -> ArtifactSummary:
    """Return the contents of an artifact, from its headers."""
    artifact = open_files(paths)
    palettized = tuple(
        StoredWeight(
            name=name,
            weight=weight,
            size_bytes=sum(part.tensor.size_bytes for part in artifact.palettes[name].values()),
        )
        for name, weight in artifact.weights.items()
    )
    kept = {name: stored.tensor.size_bytes for name, stored in artifact.kept_tensors.items()}
    return ArtifactSummary(palettized=palettized, kept=kept, software=artifact.metadata[0].software)


def export(
    paths: Sequence[Path],
    to: ExportFormat,
    out: Path,
    *,
    model: Path | None = None,
    keep_dense: bool = False,
) -> Sequence[str]:
    """Export an artifact to another format; return the names of weights that are dense in it.

    An output named .mlpackage or .aimodel is that folder, any other is one file. Formats of
    runnable models need the `.pt2` from which the artifact was made.

    Raises:
        BadInput: see `palettery.app.artifacts.export.formats.export_artifact`.
    """
    check_package(out, to)
    output = Output(out, or_folder=is_package(out))
    _check_outputs([output], artifact=paths, model=[model] if model else [])
    artifact = open_files(paths)
    with output, _store_in(output) as store:
        source = None if model is None else _source(model, "export --model")
        request = ExportRequest(
            artifact,
            store,
            "export",
            source=source,
            sandbox=read_settings().limits.sandbox,
        )
        exported = export_artifact(request, to, keep_dense=keep_dense)
        if is_package(out):
            unpack_package(output.folder / "export", output.place, output.folder)
        else:
            output.publish(output.folder / "export")
    return exported.dense


def evaluate(model: Path, paths: Sequence[Path], inputs: Path) -> Sequence[ComparedOutput]:
    """Compare the outputs of a `.pt2` before and after palettization, on these inputs.

    Raises:
        BadInput: see `palettery.app.evaluation.evaluate`.
    """
    from palettery.app.evaluation.evaluate import evaluate as run  # imports torch

    return run(_source(model, "evaluate"), open_files(paths), inputs, read_settings().limits)


def _source(model: Path, command: str) -> ExportSource:
    """Open the `.pt2` from which an artifact was made.

    Raises:
        UnsupportedFormat: the file is not a `.pt2`.
    """
    stored = stored_files([model], digests=False)
    storage, file = stored.storage, stored.files[0]
    head = bytes(storage.read(file.path, 0, min(HEAD_BYTES, file.size_bytes)))
    kind = detect_format(head, file.name)
    if kind != "zip":
        raise UnsupportedFormat(
            f"{file.name} is a {kind} file; {command} takes the .pt2 that was palettized "
            "(torch.export.save)"
        )
    return ExportSource(storage, file)


def _run(tasks: Sequence[CompressionTask], advance: Advance) -> None:
    total, done = sum(task.size_bytes for task in tasks), 0

    def on_done(task: CompressionTask) -> None:
        nonlocal done
        done += task.size_bytes
        advance(done, total)

    advance(0, total)
    run_tasks(tasks, on_done)


@contextmanager
def _store_in(output: Output) -> Iterator[Storage]:
    """Open the temporary folder of an output as a store.

    Raises:
        PaletteryError: the disk is full.
    """
    try:
        yield open_storage(output.folder.as_uri())
    except StorageFull as error:
        raise PaletteryError(
            f"cannot write {output}: the disk is full; free some space and try again"
        ) from error


def _check_outputs(outputs: Sequence[Output], **inputs: Sequence[Path]) -> None:
    files = {
        what: [file for path in paths for file in expand_path(path)]
        for what, paths in inputs.items()
    }
    check_apart(outputs, **files)


def _check_fits(artifact: Output, plan: Plan) -> None:
    """Check that an artifact for a stream is one file.

    Raises:
        BadInput: the artifact will have several files.
    """
    if artifact.is_stream and sum(each.predicted_bytes for each in plan.tensors) > SHARD_BYTES:
        raise BadInput(
            f"the artifact will have several files, and {artifact} takes one; name a folder to make"
        )


def _write_report(output: Output, report: Report, store: Storage, artifact: Output) -> None:
    """Write a report as a page or as JSON, by the suffix of its file.

    Raises:
        PaletteryError: the report cannot be written; says where the artifact is.
    """
    try:
        if is_page(output.path):
            output.write(report_page(report_documents(store, JOB)))
        else:
            output.write([report.model_dump_json(indent=2).encode() + b"\n"])
    except PaletteryError as error:
        raise PaletteryError(f"{error.detail}; the artifact is at {artifact}") from error


def _input_files(
    model: Sequence[Path], sensitivities: Sequence[Path]
) -> tuple[StoredFiles, StoredFiles | None]:
    weighting = stored_files(sensitivities, digests=True) if sensitivities else None
    return stored_files(model, digests=True), weighting


def _publish(folder: Path, artifact: Output) -> None:
    """Publish the files of an artifact: one file, or a folder of several."""
    files = list(folder.iterdir())
    if len(files) == 1:
        artifact.publish(files[0])
    elif artifact.is_stream or artifact.place.exists():
        raise BadInput(
            f"the artifact has {len(files)} files and needs a folder, but {artifact} exists"
        )
    else:
        artifact.publish(folder)
