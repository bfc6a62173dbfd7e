"""The work of a job without a server: the same steps, one after the other, in this process."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.artifacts.export.formats import export as run_export
from app.artifacts.export.order import Export, Source
from app.artifacts.export.packages import check_package, is_package, put_package
from app.artifacts.files import open_files
from app.checkpoints.kinds import HEAD_BYTES, tell_kind
from app.compression.assemble import assemble
from app.compression.job import report_documents
from app.dashboard.report_page import report_page
from app.errors import BadInput, PaletteryError, UnsupportedFormat
from app.jobs.inline import run_tasks
from app.local_files import expanded, stored_files
from app.planning.intake import Upload, take_in
from app.planning.tasks import cut
from app.settings import read_settings
from app.storage import open_storage
from schemas.artifact import ArtifactSummary, StoredWeight
from schemas.config import KMeansPalettizerConfig
from schemas.evaluation import ComparedOutput
from schemas.exports import ExportFormat
from schemas.plan import Plan
from schemas.report import Report
from schemas.tasks import CompressionTask

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
    return take_in(config, model, beside, read_settings().limits, strict=strict).plan


def compress(
    paths: Sequence[Path],
    config: KMeansPalettizerConfig,
    out: Path,
    advance: Advance,
    *,
    sensitivities: Sequence[Path] = (),
    strict: bool = False,
    page: Path | None = None,
) -> Report:
    """Palettize the model in these files into `out`: a file, or a folder when it is sharded.

    Nothing appears at `out` unless all of it is verified. The report goes as a page to `page`.
    """
    for each in filter(None, (out, page)):
        _check_out(each, model=paths, sensitivities=sensitivities)
    settings, (model, beside) = read_settings(), _uploads(paths, sensitivities)
    intake = take_in(config, model, beside, settings.limits, strict=strict)
    with _aside(out) as folder:
        store = open_storage(folder.as_uri())
        tasks = cut(
            intake.plan,
            intake.checkpoint,
            source_url=model.storage.url,
            store_url=store.url,
            parts_prefix="parts",
            task_bytes=settings.task_bytes,
            sensitivities=intake.sensitivities,
            sensitivities_url=beside.storage.url if beside else None,
        )
        _run(tasks, advance)
        report = assemble(
            intake.plan,
            intake.checkpoint,
            tasks,
            source=model.storage,
            store=store,
            prefix="job",
            config=config,
        )
        if page is not None:
            with page.open("wb") as file:
                file.writelines(report_page(report_documents(store, "job")))
        _publish(folder / "job" / "artifact", out)
    return report


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
        BadInput: see `app.artifacts.export.formats.export`.
    """
    _check_out(out, artifact=paths)
    check_package(out, to)
    artifact = open_files(paths)
    with _aside(out) as folder:
        store = open_storage(folder.as_uri())
        source = None if model is None else _source(model, "export --model")
        wanted = Export(artifact, store, "export", source=source)
        made = run_export(wanted, to, keep_dense=keep_dense)
        if is_package(out):
            put_package(folder / "export", out, folder)
        else:
            (folder / "export").replace(out)
    return made.dense


def evaluate(model: Path, paths: Sequence[Path], inputs: Path) -> Sequence[ComparedOutput]:
    """What a `.pt2` computes before and after, on these inputs.

    Raises:
        BadInput: see `app.artifacts.evaluate`.
    """
    from app.artifacts.evaluate import evaluate as run  # which brings torch

    return run(_source(model, "evaluate"), open_files(paths), inputs, read_settings().limits)


def _source(model: Path, taker: str) -> Source:
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
    return Source(storage, file)


def _run(tasks: Sequence[CompressionTask], advance: Advance) -> None:
    total, done = sum(task.size_bytes for task in tasks), 0

    def on_done(task: CompressionTask) -> None:
        nonlocal done
        done += task.size_bytes
        advance(done, total)

    advance(0, total)
    run_tasks(tasks, on_done)


def _check_out(out: Path, **inputs: Sequence[Path]) -> None:
    for what, paths in inputs.items():
        if out.resolve() in {file.resolve() for path in paths for file in expanded(path)}:
            raise BadInput(f"{out} is a file of the {what}; name another file for the artifact")


def _uploads(model: Sequence[Path], sensitivities: Sequence[Path]) -> tuple[Upload, Upload | None]:
    beside = stored_files(sensitivities, digests=True) if sensitivities else None
    return stored_files(model, digests=True), beside


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A folder beside `out`, on the same disk, gone when the work ends, however it ends."""
    parent = out.resolve().parent
    if not parent.is_dir():
        raise BadInput(f"there is no folder {parent} to write {out.name} in")
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=parent))
    try:
        yield folder
    except OSError as error:
        raise PaletteryError(f"cannot write {out}: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(artifact: Path, out: Path) -> None:
    files = list(artifact.iterdir())
    if len(files) == 1:
        if out.is_dir():
            raise BadInput(f"{out} is a folder; name the file to write")
        files[0].replace(out)
    elif out.exists():
        raise BadInput(f"the artifact has {len(files)} files and needs a folder, but {out} exists")
    else:
        artifact.rename(out)
