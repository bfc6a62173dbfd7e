"""A job of the command line: its files, its tasks one by one, and its outputs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from palettery.app.checkpoints.local_files import expand_path, stored_files
from palettery.app.compression.job_folder import (
    read_report,
    report_documents,
    stop_path,
    write_job,
)
from palettery.app.compression.layout import SHARD_BYTES
from palettery.app.compression.perform_task import perform
from palettery.app.dashboard.report_page import report_page
from palettery.app.errors import BadInput, PaletteryError, StorageFull
from palettery.app.execution.inline import run_tasks
from palettery.app.planning.job_plan import JobPlan
from palettery.app.planning.second_moments import SecondMoments
from palettery.app.planning.tasks import cut_tasks
from palettery.app.settings import read_settings
from palettery.app.storage.base import Storage
from palettery.app.storage.open import open_storage
from palettery.app.storage.output_files import Output, check_distinct, is_html
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.plan import Plan
from palettery.schemas.report import Report
from palettery.schemas.tasks import CompressionTask, FinishTask, JobRequest

JOB, PARTS = "job", "parts"
"""Folders of the job and of its parts, in the temporary folder of its output."""
Advance = Callable[[int, int], None]
"""Progress callback, called with (bytes done, total bytes)."""


@dataclass(frozen=True)
class LocalFiles:
    """Files of a job, each in a store of its own."""

    model: StoredFiles
    weighting: StoredFiles | None
    """Sensitivities."""
    second_moments: SecondMoments | None

    @classmethod
    def of(
        cls,
        paths: Sequence[Path],
        sensitivities: Sequence[Path],
        second_moments: SecondMoments | None = None,
    ) -> Self:
        """Open the files of a model and of what is beside it."""
        weighting = stored_files(sensitivities, digests=True) if sensitivities else None
        return cls(stored_files(paths, digests=True), weighting, second_moments)

    @property
    def moments(self) -> Checkpoint | None:
        """Second moments under the names of the model's tensors."""
        return self.second_moments.checkpoint if self.second_moments else None

    def tasks(self, job: JobPlan, store: Storage) -> list[CompressionTask]:
        """Return the tasks of a job, whose parts are in the folder `PARTS` of a store."""
        return cut_tasks(
            job.plan,
            job.checkpoint,
            source_url=self.model.storage.url,
            store_url=store.url,
            parts_prefix=PARTS,
            task_bytes=read_settings().task_bytes,
            sensitivities=job.sensitivities,
            sensitivities_url=self.weighting.storage.url if self.weighting else None,
            second_moments=self.moments,
            second_moments_url=self.second_moments.url if self.second_moments else None,
        )


def palettize(
    store: Storage,
    prefix: str,
    request: JobRequest,
    tasks: Sequence[CompressionTask],
    model: StoredFiles,
    advance: Advance,
) -> Report:
    """Run the tasks of a job, as a worker does, and put its artifact together in a folder."""
    write_job(store, prefix, request, tasks)
    _run(tasks, advance)
    finish = FinishTask(
        store_url=store.url,
        prefix=prefix,
        cancel_path=stop_path(prefix, 0),
        source_url=model.storage.url,
    )
    perform(finish)
    return read_report(store, prefix)


@contextmanager
def store_in(output: Output) -> Iterator[Storage]:
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


def check_outputs(outputs: Sequence[Output], **inputs: Sequence[Path]) -> None:
    """Check that outputs are other files than the inputs, which have names.

    Raises:
        BadInput: they are not.
    """
    files = {
        what: [file for path in paths for file in expand_path(path)]
        for what, paths in inputs.items()
    }
    check_distinct(outputs, **files)


def check_fits(artifact: Output, plan: Plan) -> None:
    """Check that an artifact for a stream is one file.

    Raises:
        BadInput: the artifact will have several files.
    """
    if artifact.is_stream and sum(each.predicted_bytes for each in plan.tensors) > SHARD_BYTES:
        raise BadInput(
            f"the artifact will have several files, and {artifact} takes one; name a folder to make"
        )


def publish_job(
    store: Storage, artifact: Output, reports: Sequence[Output], report: Report
) -> None:
    """Publish the verified artifact of the job, then its report; the parts are needed no more."""
    store.delete_folder(PARTS)
    _publish(artifact.folder / JOB / "artifact", artifact)
    for output in reports:
        _write_report(output, report, store, artifact)


def _publish(folder: Path, artifact: Output) -> None:
    """Publish the files of an artifact: one file, or a folder of several."""
    files = list(folder.iterdir())
    if len(files) == 1:
        artifact.publish(files[0])
    elif artifact.is_stream or artifact.resolved_path.exists():
        raise BadInput(
            f"the artifact has {len(files)} files and needs a folder, but {artifact} exists"
        )
    else:
        artifact.publish(folder)


def _write_report(output: Output, report: Report, store: Storage, artifact: Output) -> None:
    """Write a report as a page or as JSON, by the suffix of its file.

    Raises:
        PaletteryError: the report cannot be written; says where the artifact is.
    """
    try:
        if is_html(output.path):
            output.write(report_page(report_documents(store, JOB)))
        else:
            output.write([report.model_dump_json(indent=2).encode() + b"\n"])
    except PaletteryError as error:
        raise PaletteryError(f"{error.detail}; the artifact is at {artifact}") from error


def _run(tasks: Sequence[CompressionTask], advance: Advance) -> None:
    total, done = sum(task.size_bytes for task in tasks), 0

    def on_done(task: CompressionTask) -> None:
        nonlocal done
        done += task.size_bytes
        advance(done, total)

    advance(0, total)
    run_tasks(tasks, on_done)
