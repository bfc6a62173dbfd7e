"""Last steps of a job: lay out its parts, then write, verify, export and publish the artifact."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

from pydantic import TypeAdapter

from palettery.app.artifacts.export.formats import FORMATS, export_artifact
from palettery.app.artifacts.export.request import ExportRequest, ExportSource
from palettery.app.artifacts.reader import Artifact, open_artifact
from palettery.app.checkpoints.reader import read_model_config
from palettery.app.compression.artifact_files import build_metadata, write_index, write_shard
from palettery.app.compression.cancellation import CancellationCheck
from palettery.app.compression.job_folder import (
    artifact_path,
    export_path,
    parts_path,
    published_artifact,
    read_request,
    read_tasks,
    statistics_path,
    write_report,
)
from palettery.app.compression.layout import (
    Shards,
    Stores,
    lay_out,
    locate_slices,
    verification_batches,
)
from palettery.app.compression.parts import Parts, read_parts
from palettery.app.compression.report import ArtifactTensor, build_report, tensor_report
from palettery.app.compression.result_keys import content_key, origin_key, recipe
from palettery.app.compression.statistics import collect_statistics
from palettery.app.compression.verify import verify
from palettery.app.errors import Cancelled
from palettery.app.settings import Limits
from palettery.app.storage.base import ObjectReader
from palettery.app.storage.open import shared_storage
from palettery.app.storage.verified_reader import CheckedFile, VerifiedReader
from palettery.schemas.exports import Exported, ExportFormat
from palettery.schemas.plan import Plan
from palettery.schemas.tasks import (
    CompressionTask,
    ExportTask,
    FinishTask,
    GatherTask,
    JobRequest,
    JobTask,
    Layout,
    Published,
    PublishTask,
    Result,
    StoredSlice,
    VerifyTask,
    WriteTask,
)

_PARTS_JSON: TypeAdapter[Parts] = TypeAdapter(dict[str, tuple[StoredSlice, ...]])


def gather(task: GatherTask) -> Layout:
    """Store the locations of all parts, and return the layout of the artifact."""
    return _Job(task).gather()


def write(task: WriteTask) -> str:
    """Write one file of the artifact; return its SHA-256."""
    return _Job(task).write(task.shard)


def verify_tensors(task: VerifyTask, threads: int | None = None) -> None:
    """Compare tensors of the written artifact with the model.

    Raises:
        InvalidArtifact: see `verify`.
    """
    _Job(task).verify(task.names, threads)


def export(task: ExportTask) -> Exported:
    """Export the artifact to another format, and check the result."""
    return _Job(task).export(task.format)


def publish(task: PublishTask) -> Published:
    """Write the index and the report of a verified artifact."""
    return _Job(task).publish(task.digests, task.exports)


def finish(task: FinishTask, threads: int | None = None) -> Published:
    """Run all of these steps in one task, for a small job."""
    job = _Job(task)
    job.read_parts()
    digests = {name: job.write(name) for name in job.shards}
    job.verify([tensor.name for tensor in job.plan.tensors], threads)
    return job.publish(digests, [job.export(export.format) for export in job.plan.exports])


class _Job:
    """A job's folder in the store, as a worker uses it; documents are read on first use.

    Raises:
        Cancelled: see `CancellationCheck`; the file in progress is deleted.
    """

    def __init__(self, task: JobTask) -> None:
        self._store, self._prefix = shared_storage(task.store_url), task.prefix
        self._source_url = task.source_url
        self._check_cancelled = CancellationCheck(self._store, task.cancel_path)

    def read_parts(self) -> None:
        parts = read_parts(self._store, self._tasks)
        self._parts = collect_statistics(self._store, parts, statistics_path(self._prefix))

    def gather(self) -> Layout:
        self.read_parts()
        self._store.write(parts_path(self._prefix), _PARTS_JSON.dump_json(dict(self._parts)))
        return Layout(
            shards=tuple(self.shards),
            batches=tuple(verification_batches(self.plan)),
            formats=tuple(export.format for export in self.plan.exports),
        )

    def write(self, name: str) -> str:
        shard, path = self.shards[name], artifact_path(self._prefix, name)
        metadata = build_metadata(self._request, shard)
        digest = write_shard(
            self._store, self._prefix, name, shard, metadata, self._check_cancelled
        )
        try:
            self._check_cancelled.check_now()
        except Cancelled:
            self._store.delete(path)
            raise
        return digest

    def verify(self, names: Sequence[str], threads: int | None) -> None:
        selected = set(names)
        tensors = [
            tensor_report(piece) for piece in self._pieces() if piece.planned.name in selected
        ]
        checkpoint = self._request.checkpoint
        verify(self._artifact(), tensors, checkpoint, self._source, self._check_cancelled, threads)

    def export(self, to: ExportFormat) -> Exported:
        source, checkpoint = None, self._request.checkpoint
        if checkpoint.format == "pt2":
            source = ExportSource(self._store, checkpoint.files[0])
        path = export_path(self._prefix, to)
        needs_config = FORMATS[to].needs == "config"
        request = ExportRequest(
            self._artifact(),
            self._store,
            path,
            source=source,
            config=read_model_config(self._store, checkpoint.files) if needs_config else None,
            sandbox=Limits().sandbox,
            folder=self._prefix,
        )
        return export_artifact(request, to, keep_dense=True)

    def publish(self, digests: dict[str, str], exports: Sequence[Exported]) -> Published:
        self._check_cancelled.check_now()
        digests = digests | write_index(self._store, self._prefix, self.shards)
        request = self._request
        report = build_report(
            self.plan,
            list(self._pieces()),
            digests,
            exports,
            request.allocation,
            request.evaluation,
        )
        write_report(self._store, self._prefix, report)
        return published_artifact(self._store, self._prefix, report, list(self._results()))

    @cached_property
    def _source(self) -> ObjectReader:
        """Store of the model; uploaded files are checked as they are read."""
        if self._source_url is not None:
            return shared_storage(self._source_url)
        files = self._request.checkpoint.files
        checked = {file.path: CheckedFile(file.sha256, file.name) for file in files if file.sha256}
        return VerifiedReader(self._store, checked)

    def _artifact(self) -> Artifact:
        """Open the artifact; reading it raises `Cancelled` once the job is cancelled."""
        paths = [artifact_path(self._prefix, name) for name in self.shards]
        return replace(open_artifact(self._store, paths, Limits()), check=self._check_cancelled)

    @property
    def plan(self) -> Plan:
        return self._request.plan

    @cached_property
    def shards(self) -> Shards:
        stores = Stores(self._source, self._store)
        return lay_out(self.plan, self._request.checkpoint, self._parts, stores)

    @cached_property
    def _parts(self) -> Parts:
        return _PARTS_JSON.validate_json(bytes(self._store.read(parts_path(self._prefix))))

    @cached_property
    def _tasks(self) -> Sequence[CompressionTask]:
        return read_tasks(self._store, self._prefix)

    @cached_property
    def _request(self) -> JobRequest:
        return read_request(self._store, self._prefix)

    def _pieces(self) -> Iterator[ArtifactTensor]:
        return (piece for shard in self.shards.values() for piece in shard)

    def _results(self) -> Iterator[Result]:
        """Yield the slices that other jobs may reuse: those with digests of their bytes."""
        slices = {(item.name, item.first_row): item for task in self._tasks for item in task.slices}
        for name, shard in self.shards.items():
            metadata = build_metadata(self._request, shard)
            locations = locate_slices(artifact_path(self._prefix, name), shard, metadata)
            for key, stored in locations.items():
                recipe_ = recipe(slices[key])
                content, origin = stored.outcome.content_sha256, origin_key(recipe_, slices[key])
                if content is not None and origin is not None:
                    yield Result(
                        recipe=recipe_,
                        origin_key=origin,
                        content_key=content_key(recipe_, content),
                        stored=stored,
                    )
