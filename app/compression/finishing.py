"""Finish a job in a worker: lay its parts out, write, verify and publish the artifact."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

from pydantic import TypeAdapter

from palettery.app.artifacts.export.formats import export as write_and_check
from palettery.app.artifacts.export.request import Export, ExportSource
from palettery.app.artifacts.reader import Artifact, open_artifact
from palettery.app.compression.artifact_files import build_metadata, write_index, write_shard
from palettery.app.compression.cancellation import StopCheck
from palettery.app.compression.job_folder import (
    artifact_path,
    export_path,
    parts_path,
    published,
    read_request,
    read_tasks,
    statistics_path,
    write_report,
)
from palettery.app.compression.layout import Shards, Stores, batches, in_artifact, lay_out
from palettery.app.compression.parts import Parts, read_parts
from palettery.app.compression.report import ArtifactTensor, account, tensor_report
from palettery.app.compression.result_keys import content_key, origin_key, recipe
from palettery.app.compression.statistics import collected
from palettery.app.compression.verify import verify
from palettery.app.errors import Cancelled
from palettery.app.settings import Limits
from palettery.app.storage.base import Reads
from palettery.app.storage.checked_reads import CheckedFile, CheckedReads
from palettery.app.storage.open import shared_storage
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

_PARTS: TypeAdapter[Parts] = TypeAdapter(dict[str, tuple[StoredSlice, ...]])


def gather(task: GatherTask) -> Layout:
    """Note where all parts lie, and how they will lie in the artifact."""
    return _Job(task).gather()


def write(task: WriteTask) -> str:
    """Write one file of the artifact; its hex digest."""
    return _Job(task).write(task.shard)


def check(task: VerifyTask, threads: int | None = None) -> None:
    """Compare tensors of the written artifact with the upload.

    Raises:
        InvalidArtifact: see `verify`.
    """
    _Job(task).verify(task.names, threads)


def export(task: ExportTask) -> Exported:
    """Write the artifact in another form, and compare that with it."""
    return _Job(task).export(task.format)


def publish(task: PublishTask) -> Published:
    """Write the index and the report of an artifact that was verified."""
    return _Job(task).publish(task.digests, task.exports)


def finish(task: FinishTask, threads: int | None = None) -> Published:
    """All of the above for a small job, in one go."""
    job = _Job(task)
    job.read_parts()
    digests = {name: job.write(name) for name in job.shards}
    job.verify([tensor.name for tensor in job.plan.tensors], threads)
    return job.publish(digests, [job.export(each.format) for each in job.plan.exports])


class _Job:
    """A job's folder, opened in a worker; documents are read when first asked for.

    Raises:
        Cancelled: see `StopCheck`; what was written for it is gone again.
    """

    def __init__(self, task: JobTask) -> None:
        self._store, self._prefix = shared_storage(task.store_url), task.prefix
        self._source_url = task.source_url
        self._stop = StopCheck(self._store, task.cancel_path)

    def read_parts(self) -> None:
        parts = read_parts(self._store, self._tasks)
        self._parts = collected(self._store, parts, statistics_path(self._prefix))

    def gather(self) -> Layout:
        self.read_parts()
        self._store.write(parts_path(self._prefix), _PARTS.dump_json(dict(self._parts)))
        return Layout(
            shards=tuple(self.shards),
            batches=tuple(batches(self.plan)),
            formats=tuple(each.format for each in self.plan.exports),
        )

    def write(self, name: str) -> str:
        shard, path = self.shards[name], artifact_path(self._prefix, name)
        metadata = build_metadata(self._request, shard)
        digest = write_shard(self._store, self._prefix, name, shard, metadata, self._stop)
        try:
            self._stop.now()
        except Cancelled:
            self._store.delete(path)
            raise
        return digest

    def verify(self, names: Sequence[str], threads: int | None) -> None:
        wanted = set(names)
        tensors = [tensor_report(piece) for piece in self._pieces() if piece.planned.name in wanted]
        checkpoint = self._request.checkpoint
        verify(self._artifact(), tensors, checkpoint, self._source, self._stop, threads)

    def export(self, to: ExportFormat) -> Exported:
        source, checkpoint = None, self._request.checkpoint
        if checkpoint.format == "pt2":
            source = ExportSource(self._store, checkpoint.files[0])
        path = export_path(self._prefix, to)
        wanted = Export(
            self._artifact(),
            self._store,
            path,
            source=source,
            sandbox=Limits().sandbox,
            folder=self._prefix,
        )
        return write_and_check(wanted, to, keep_dense=True)

    def publish(self, digests: dict[str, str], exports: Sequence[Exported]) -> Published:
        self._stop.now()
        digests = digests | write_index(self._store, self._prefix, self.shards)
        report = account(self.plan, list(self._pieces()), digests, exports)
        write_report(self._store, self._prefix, report)
        return published(self._store, self._prefix, report, list(self._results()))

    @cached_property
    def _source(self) -> Reads:
        """The store that holds the model; uploaded files are checked as they are read."""
        if self._source_url is not None:
            return shared_storage(self._source_url)
        files = self._request.checkpoint.files
        known = {file.path: CheckedFile(file.sha256, file.name) for file in files if file.sha256}
        return CheckedReads(self._store, known)

    def _artifact(self) -> Artifact:
        """The artifact; reading it ends when the job is to stop."""
        paths = [artifact_path(self._prefix, name) for name in self.shards]
        return replace(open_artifact(self._store, paths, Limits()), check=self._stop)

    @property
    def plan(self) -> Plan:
        return self._request.plan

    @cached_property
    def shards(self) -> Shards:
        stores = Stores(self._source, self._store)
        return lay_out(self.plan, self._request.checkpoint, self._parts, stores)

    @cached_property
    def _parts(self) -> Parts:
        return _PARTS.validate_json(bytes(self._store.read(parts_path(self._prefix))))

    @cached_property
    def _tasks(self) -> Sequence[CompressionTask]:
        return read_tasks(self._store, self._prefix)

    @cached_property
    def _request(self) -> JobRequest:
        return read_request(self._store, self._prefix)

    def _pieces(self) -> Iterator[ArtifactTensor]:
        return (piece for shard in self.shards.values() for piece in shard)

    def _results(self) -> Iterator[Result]:
        """The slices that other jobs may use: those whose bytes were digested."""
        items = {(item.name, item.first_row): item for task in self._tasks for item in task.slices}
        for name, shard in self.shards.items():
            metadata = build_metadata(self._request, shard)
            lying = in_artifact(artifact_path(self._prefix, name), shard, metadata)
            for place, stored in lying.items():
                named, content = recipe(items[place]), stored.outcome.content_sha256
                origin = origin_key(named, items[place])
                if content is not None and origin is not None:
                    yield Result(
                        recipe=named,
                        origin_key=origin,
                        content_key=content_key(named, content),
                        stored=stored,
                    )
