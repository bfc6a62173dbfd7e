"""The work of a job without a server: the same steps, one after the other, in this process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from palettery.app.artifacts.export.formats import export as run_export
from palettery.app.artifacts.export.packages import check_package, is_package, put_package
from palettery.app.artifacts.export.request import Export, ExportSource
from palettery.app.artifacts.files import open_files
from palettery.app.checkpoints.kinds import HEAD_BYTES, tell_kind
from palettery.app.checkpoints.local_files import expanded, stored_files
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
from palettery.app.planning.tasks import cut
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
"""Called with (bytes done, bytes in all)."""


def plan(
    paths: Sequence[Path],
    config: KMeansPalettizerConfig,
    *,
    sensitivities: Sequence[Path] = (),
    strict: bool = False,
) -> Plan:
    """What a job with this config would do to the model in these files."""
    model, beside = _uploads(paths, sensitivities)
    return plan_job(config, model, beside, read_settings().limits, strict=strict).plan


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
    """Palettize the model in these files into `out`: a file, or a folder when it is sharded.

    Nothing appears at `out` unless all of it is verified. The report goes to `report`, as a page or
    as JSON, once the artifact is there.

    Raises:
        BadInput: the model or the config cannot be used, or an output cannot be written.
        PaletteryError: an output could not be written all the same; says which, and what is there.
    """
    outputs = [Output(path) for path in (out, report) if path is not None]
    _check_outputs(outputs, model=paths, sensitivities=sensitivities)
    with ExitStack() as stack:
        artifact, *reports = [stack.enter_context(output) for output in outputs]
        store = stack.enter_context(_store_in(artifact))
        settings, (model, beside) = read_settings(), _uploads(paths, sensitivities)
        intake = plan_job(config, model, beside, settings.limits, strict=strict)
        _check_fits(artifact, intake.plan)
        made = _palettize(intake, model, beside, store, settings.task_bytes, advance)
        _publish(artifact.folder / JOB / "artifact", artifact)
        for output in reports:
            _write_report(output, made, store, artifact)
    return made


def _palettize(
    intake: JobPlan,
    model: StoredFiles,
    sensitivities: StoredFiles | None,
    store: Storage,
    task_bytes: int,
    advance: Advance,
) -> Report:
    """Run every task, and put the artifact together below `job` in the store."""
    tasks = cut(
        intake.plan,
        intake.checkpoint,
        source_url=model.storage.url,
        store_url=store.url,
        parts_prefix=f"{JOB}/parts",
        task_bytes=task_bytes,
        sensitivities=intake.sensitivities,
        sensitivities_url=sensitivities.storage.url if sensitivities else None,
    )
    request = JobRequest(config=intake.config, checkpoint=intake.checkpoint, plan=intake.plan)
    write_job(store, JOB, request, tasks)
    _run(tasks, advance)
    finish = FinishTask(
        store_url=store.url,
        prefix=JOB,
        cancel_path=stop_path(JOB, 0),
        source_url=model.storage.url,
    )
    perform(finish)
    return read_report(store, JOB)


def inspect(paths: Sequence[Path]) -> ArtifactSummary:
    """What an artifact holds, from its headers."""
    artifact = open_files(paths)
    palettized = tuple(
        StoredWeight(
            name=name,
            weight=weight,
            size_bytes=sum(part.tensor.size_bytes for part in artifact.palettes[name].values()),
        )
        for name, weight in artifact.weights.items()
    )
    kept = {name: stored.tensor.size_bytes for name, stored in artifact.kept.items()}
    return ArtifactSummary(palettized=palettized, kept=kept, software=artifact.metadata[0].software)


def export(
    paths: Sequence[Path],
    to: ExportFormat,
    out: Path,
    *,
    model: Path | None = None,
    keep_dense: bool = False,
) -> Sequence[str]:
    """Write an artifact in another form; the weights that are dense in it.

    A name that ends in .mlpackage or .aimodel gets that folder, any other name one file.
    Forms of models that run take the `.pt2` that it was made of.

    Raises:
        BadInput: see `palettery.app.artifacts.export.formats.export`.
    """
    check_package(out, to)
    output = Output(out, or_folder=is_package(out))
    _check_outputs([output], artifact=paths, model=[model] if model else [])
    artifact = open_files(paths)
    with output, _store_in(output) as store:
        source = None if model is None else _source(model, "export --model")
        wanted = Export(
            artifact, store, "export", source=source, sandbox=read_settings().limits.sandbox
        )
        made = run_export(wanted, to, keep_dense=keep_dense)
        if is_package(out):
            put_package(output.folder / "export", output.place, output.folder)
        else:
            output.publish(output.folder / "export")
    return made.dense


def evaluate(model: Path, paths: Sequence[Path], inputs: Path) -> Sequence[ComparedOutput]:
    """What a `.pt2` computes before and after, on these inputs.

    Raises:
        BadInput: see `palettery.app.evaluation.evaluate`.
    """
    from palettery.app.evaluation.evaluate import evaluate as run  # which brings torch

    return run(_source(model, "evaluate"), open_files(paths), inputs, read_settings().limits)


def _source(model: Path, taker: str) -> ExportSource:
    """The `.pt2` that an artifact was made of.

    Raises:
        UnsupportedFormat: it is another kind of file.
    """
    stored = stored_files([model], digests=False)
    storage, file = stored.storage, stored.files[0]
    head = bytes(storage.read(file.path, 0, min(HEAD_BYTES, file.size_bytes)))
    kind = tell_kind(head, file.name)
    if kind != "zip":
        raise UnsupportedFormat(
            f"{file.name} is a {kind} file; {taker} takes the .pt2 that was palettized "
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
    """The temporary folder of an output as a store.

    Raises:
        PaletteryError: its disk is full.
    """
    try:
        yield open_storage(output.folder.as_uri())
    except StorageFull as error:
        raise PaletteryError(
            f"cannot write {output}: the disk is full; free some space and try again"
        ) from error


def _check_outputs(outputs: Sequence[Output], **inputs: Sequence[Path]) -> None:
    files = {
        what: [file for path in paths for file in expanded(path)] for what, paths in inputs.items()
    }
    check_apart(outputs, **files)


def _check_fits(artifact: Output, plan: Plan) -> None:
    """See that a stream is to take one file.

    Raises:
        BadInput: the artifact will be several.
    """
    if artifact.is_stream and sum(each.predicted_bytes for each in plan.tensors) > SHARD_BYTES:
        raise BadInput(
            f"the artifact will have several files, and {artifact} takes one; name a folder to make"
        )


def _write_report(output: Output, report: Report, store: Storage, artifact: Output) -> None:
    """Write a report in the form that the name of its file asks for.

    Raises:
        PaletteryError: it cannot be written; says where the artifact is.
    """
    try:
        if is_page(output.path):
            output.write(report_page(report_documents(store, JOB)))
        else:
            output.write([report.model_dump_json(indent=2).encode() + b"\n"])
    except PaletteryError as error:
        raise PaletteryError(f"{error.detail}; the artifact is at {artifact}") from error


def _uploads(
    model: Sequence[Path], sensitivities: Sequence[Path]
) -> tuple[StoredFiles, StoredFiles | None]:
    beside = stored_files(sensitivities, digests=True) if sensitivities else None
    return stored_files(model, digests=True), beside


def _publish(folder: Path, artifact: Output) -> None:
    """Put the files of an artifact where they go: one file, or all in a folder."""
    files = list(folder.iterdir())
    if len(files) == 1:
        artifact.publish(files[0])
    elif artifact.is_stream or artifact.place.exists():
        raise BadInput(
            f"the artifact has {len(files)} files and needs a folder, but {artifact} exists"
        )
    else:
        artifact.publish(folder)
