"""Commands without a server: the tasks of a job run one by one, in this process."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from palettery.app.artifacts.export.formats import export_artifact
from palettery.app.artifacts.export.packages import check_package, is_package, unpack_package
from palettery.app.artifacts.export.request import ExportRequest, ExportSource
from palettery.app.artifacts.export.transformers_folder import (
    check_folder,
    write_transformers_folder,
)
from palettery.app.artifacts.files import open_files
from palettery.app.checkpoints.file_formats import HEAD_BYTES, detect_format
from palettery.app.checkpoints.local_files import stored_files
from palettery.app.cli.local_job import (
    JOB,
    Advance,
    LocalFiles,
    check_fits,
    check_outputs,
    palettize,
    publish_job,
    store_in,
)
from palettery.app.errors import UnsupportedFormat
from palettery.app.planning.job_plan import plan_job
from palettery.app.planning.second_moments import SecondMoments
from palettery.app.settings import read_settings
from palettery.app.storage.output_files import Output
from palettery.schemas.artifact import ArtifactSummary, StoredWeight
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.exports import ExportFormat
from palettery.schemas.plan import Plan
from palettery.schemas.report import Report
from palettery.schemas.tasks import JobRequest


def plan(
    paths: Sequence[Path],
    config: KMeansPalettizerConfig,
    *,
    sensitivities: Sequence[Path] = (),
    strict: bool = False,
) -> Plan:
    """Return the plan of a job with this config on the model in these files."""
    files = LocalFiles.of(paths, sensitivities)
    return plan_job(
        config, files.model, files.weighting, read_settings().limits, strict=strict
    ).plan


def compress(
    paths: Sequence[Path],
    config: KMeansPalettizerConfig,
    out: Path,
    advance: Advance,
    *,
    sensitivities: Sequence[Path] = (),
    second_moments: SecondMoments | None = None,
    strict: bool = False,
    report: Path | None = None,
) -> Report:
    """Palettize the model in these files into `out`: a file, or a folder if it is sharded.

    Second moments of the layers' inputs turn on error feedback.
    Nothing appears at `out` unless the whole artifact is verified. Then the report is written to
    `report`, as a page or as JSON.

    Raises:
        BadInput: the model or the config is invalid, or an output cannot be written.
        PaletteryError: writing an output failed; says which, and where the artifact is.
    """
    outputs = [Output(path) for path in (out, report) if path is not None]
    check_outputs(outputs, model=paths, sensitivities=sensitivities)
    with ExitStack() as stack:
        artifact, *reports = [stack.enter_context(output) for output in outputs]
        store = stack.enter_context(store_in(artifact))
        files = LocalFiles.of(paths, sensitivities, second_moments)
        job = plan_job(
            config,
            files.model,
            files.weighting,
            read_settings().limits,
            strict=strict,
            second_moments=files.moments,
        )
        check_fits(artifact, job.plan)
        request = JobRequest(config=job.config, checkpoint=job.checkpoint, plan=job.plan)
        done = palettize(store, JOB, request, files.tasks(job, store), files.model, advance)
        publish_job(store, artifact, reports, done)
    return done


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
    check_outputs([output], artifact=paths, model=[model] if model else [])
    artifact = open_files(paths)
    with output, store_in(output) as store:
        source = None if model is None else _source(model)
        request = ExportRequest(
            artifact,
            store,
            "export",
            source=source,
            sandbox=read_settings().limits.sandbox,
        )
        exported = export_artifact(request, to, keep_dense=keep_dense)
        if is_package(out):
            unpack_package(output.folder / "export", output.resolved_path, output.folder)
        else:
            output.publish(output.folder / "export")
    return exported.dense


def export_to_transformers(paths: Sequence[Path], model: Path, out: Path) -> None:
    """Write a folder that `from_pretrained` of transformers loads once Palettery is imported.

    Raises:
        BadInput: see `palettery.app.artifacts.export.transformers_folder`.
    """
    check_folder(out)
    output = Output(out, or_folder=True)
    check_outputs([output], artifact=paths)
    with output:
        made = output.folder / "folder"
        write_transformers_folder(paths, model, made)
        if out.exists():
            out.rmdir()
        made.rename(output.resolved_path)


def _source(model: Path) -> ExportSource:
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
            f"{file.name} is a {kind} file; export --model takes the .pt2 that was palettized "
            "(torch.export.save)"
        )
    return ExportSource(storage, file)
