"""Preparation of jobs: planning, and storing all that a job needs.

Arguments and results of these functions are pickled: the processes of `document_pool` run them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from palettery.app.artifacts.export.formats import FORMATS
from palettery.app.checkpoints.pt2_runnable import read_runnable
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.compression.job_folder import write_job
from palettery.app.compression.result_keys import request_sha256
from palettery.app.configs.documents import ConfigDocument, read_config
from palettery.app.events.log_messages import LogMessage, plan_summary
from palettery.app.models.indexing import load_checkpoint
from palettery.app.planning.exports import check_expressible, plan_exports
from palettery.app.planning.job_plan import JobPlan, plan_checkpoint
from palettery.app.planning.tasks import cut_tasks
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.open import shared_storage
from palettery.schemas.checkpoint import Checkpoint, StoredFile
from palettery.schemas.job_options import JobOptions
from palettery.schemas.jobs import Progress
from palettery.schemas.plan import Plan
from palettery.schemas.tasks import JobRequest


@dataclass(frozen=True)
class ModelSource:
    """Files of one model in the store."""

    files: tuple[StoredFile, ...]
    model_id: str | None = None
    """The stored model; None for files that were uploaded with the request."""


@dataclass(frozen=True)
class JobSpec:
    """A request whose models and config have been looked up."""

    model: ModelSource
    sensitivities: ModelSource | None
    config: ConfigDocument
    options: JobOptions
    size_bytes: int
    """Approximate size of what has to be parsed."""

    def files(self) -> list[StoredFile]:
        """Return every file that the job may need."""
        return [file for source in self._sources() for file in source.files]

    def uploaded_files(self) -> list[StoredFile]:
        """Return the files that were uploaded with the request."""
        sources = [source for source in self._sources() if source.model_id is None]
        return [file for source in sources for file in source.files]

    def _sources(self) -> list[ModelSource]:
        return [source for source in (self.model, self.sensitivities) if source is not None]


@dataclass(frozen=True)
class JobStorage:
    """Locations of a job's documents and files in the store, and the size of its tasks."""

    prefix: str
    """Folder of the job."""
    paths: Mapping[str, str]
    """Digest of each file -> its path."""
    task_bytes: int
    digests: bool
    """Whether results are looked up by their content."""


@dataclass(frozen=True)
class PreparedJob:
    """A job whose documents are all in the store; only its row is missing."""

    model_name: str
    size_before_bytes: int
    stored_bytes: int
    """Expected size of all that the job stores."""
    progress: Progress
    request_sha256: str
    files: tuple[str, ...]
    """Digests of the files that it needs."""
    first_line: LogMessage
    """First line of its log."""


def plan(spec: JobSpec, store_url: str, limits: Limits) -> bytes:
    """Return what a job would do, as JSON of `Plan`.

    Raises:
        BadInput: see `read_config`, `read_checkpoint`, `plan_checkpoint`, `plan_exports` and
            `read_runnable`.
    """
    return _job_plan(spec, shared_storage(store_url), limits).plan.model_dump_json().encode()


def prepare(spec: JobSpec, store_url: str, limits: Limits, storage: JobStorage) -> PreparedJob:
    """Store what a job needs to run.

    Raises:
        BadInput: as `plan`.
        Inexpressible: a format cannot express every tensor, and `keep_dense` is not set.
    """
    store = shared_storage(store_url)
    job = _job_plan(spec, store, limits)
    if not spec.options.keep_dense:
        check_expressible(job.plan)
    checkpoint = _relocated(job.checkpoint, storage.paths)
    tasks = cut_tasks(
        job.plan,
        checkpoint,
        source_url=store_url,
        store_url=store_url,
        parts_prefix=f"{storage.prefix}/parts",
        task_bytes=storage.task_bytes,
        digests=storage.digests,
        sensitivities=job.sensitivities and _relocated(job.sensitivities, storage.paths),
    )
    request = JobRequest(config=job.config, checkpoint=checkpoint, plan=job.plan)
    documents_bytes = write_job(store, storage.prefix, request, tasks)
    return PreparedJob(
        model_name=checkpoint.files[0].name,
        size_before_bytes=job.plan.size_before_bytes,
        stored_bytes=documents_bytes + _result_bytes(job.plan),
        progress=Progress(
            tensors_total=len(job.plan.palettized()),
            bytes_total=sum(task.size_bytes for task in tasks),
        ),
        request_sha256=request_sha256(job),
        files=tuple(file.sha256 for file in job.files() if file.sha256),
        first_line=plan_summary(job.plan),
    )


def _result_bytes(plan: Plan) -> int:
    """Return the size of an artifact and its exports, each at most as large as the model."""
    return plan.predicted_size_bytes + len(plan.exports) * plan.size_before_bytes


def _job_plan(spec: JobSpec, store: Storage, limits: Limits) -> JobPlan:
    options, config = spec.options, read_config(spec.config)
    model = _checkpoint(spec.model, store, limits)
    sensitivities = None
    if spec.sensitivities is not None:
        sensitivities = _checkpoint(spec.sensitivities, store, limits)
    job = plan_checkpoint(config, model, sensitivities, limits, strict=options.strict)
    has_graph = model.format == "pt2"
    if has_graph and any(FORMATS[to].needs_graph for to in options.formats):
        read_runnable(store, model.files[0], limits)
    return replace(job, plan=plan_exports(job.plan, options.formats, has_graph=has_graph))


def _checkpoint(source: ModelSource, store: Storage, limits: Limits) -> Checkpoint:
    """Return the contents of the files; a stored model was parsed when it was uploaded."""
    if source.model_id is None:
        return read_checkpoint(store, source.files, limits)
    return load_checkpoint(store, source.model_id, source.files, limits)


def _relocated(checkpoint: Checkpoint, paths: Mapping[str, str]) -> Checkpoint:
    """Return a checkpoint of these paths, so that equal bytes are stored once."""
    files = [
        file.model_copy(update={"path": paths[file.sha256]}) if file.sha256 else file
        for file in checkpoint.files
    ]
    return checkpoint.model_copy(update={"files": tuple(files)})
