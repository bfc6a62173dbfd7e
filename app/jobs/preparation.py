"""Preparation of jobs: planning, and storing all that a job needs.

Arguments and results of these functions are pickled: the processes of `document_pool` run them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from palettery.app.artifacts.export.formats import FORMATS
from palettery.app.calibration.store_folder import copy_result_file, match_result, read_result
from palettery.app.checkpoints.pt2_runnable import read_runnable
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.compression.job_folder import job_folder, write_calibration_samples, write_job
from palettery.app.compression.result_keys import request_sha256
from palettery.app.configs.documents import ConfigDocument, read_config
from palettery.app.errors import BadInput
from palettery.app.evaluations.requirements import check_evaluation
from palettery.app.events.log_messages import LogMessage, plan_summary
from palettery.app.models.indexing import load_checkpoint
from palettery.app.planning.exports import check_expressible, export_sources, plan_exports
from palettery.app.planning.job_plan import JobPlan, plan_checkpoint
from palettery.app.planning.tasks import cut_tasks, with_shared_parts
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.open import shared_storage
from palettery.schemas.checkpoint import Checkpoint, StoredFile
from palettery.schemas.evaluation import Evaluation
from palettery.schemas.job_options import JobOptions
from palettery.schemas.jobs import JobKind, Progress
from palettery.schemas.plan import Plan
from palettery.schemas.targets import Allocation
from palettery.schemas.tasks import CompressionTask, JobRequest


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
    inputs: ModelSource | None = None
    """Inputs of the evaluation that the job includes."""
    kind: JobKind = "compression"

    def files(self) -> list[StoredFile]:
        """Return every file that the job may need."""
        return [file for source in self._sources() for file in source.files]

    def uploaded_files(self) -> list[StoredFile]:
        """Return the files that were uploaded with the request."""
        sources = [source for source in self._sources() if source.model_id is None]
        return [file for source in sources for file in source.files]

    def _sources(self) -> list[ModelSource]:
        sources = (self.model, self.sensitivities, self.inputs)
        return [source for source in sources if source is not None]


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
    owner: str
    shared_parts: str | None = None
    """Folder of parts that several plans of the job share; None for parts of one plan."""


@dataclass(frozen=True)
class PreparedJob:
    """A job whose documents are all in the store; only its row is missing."""

    model_name: str
    size_before_bytes: int
    stored_bytes: int
    """Expected size of all that the job stores."""
    progress: Progress
    request_sha256: str | None
    """Digest of what the artifact depends on, or of the scores; None until a config is chosen."""
    files: tuple[str, ...]
    """Digests of the files that it needs."""
    first_line: LogMessage
    """First line of its log."""


def plan(spec: JobSpec, store_url: str, limits: Limits) -> bytes:
    """Return what a job would do, as JSON of `Plan`.

    Raises:
        BadInput: see `read_config`, `read_checkpoint`, `plan_checkpoint`, `plan_exports`,
            `read_runnable` and `check_evaluation`.
    """
    return plan_request(spec, shared_storage(store_url), limits).plan.model_dump_json().encode()


def prepare(spec: JobSpec, store_url: str, limits: Limits, storage: JobStorage) -> PreparedJob:
    """Store what a job needs to run.

    Raises:
        BadInput: as `plan`.
        Inexpressible: a format cannot express every tensor, and `keep_dense` is not set.
    """
    store = shared_storage(store_url)
    job = plan_request(spec, store, limits)
    if not spec.options.keep_dense:
        check_expressible(job.plan)
    job, copied_bytes = with_own_calibration(spec, job, store, storage)
    documents_bytes, tasks = write_documents(job, store, storage)
    return PreparedJob(
        model_name=job.checkpoint.files[0].name,
        size_before_bytes=job.plan.size_before_bytes,
        stored_bytes=documents_bytes + copied_bytes + result_bytes(job.plan),
        progress=Progress(
            tensors_total=len(job.plan.palettized()),
            bytes_total=sum(task.size_bytes for task in tasks),
        ),
        request_sha256=request_sha256(job),
        files=needed_files(spec, job, storage),
        first_line=plan_summary(job.plan),
    )


def write_documents(
    job: JobPlan,
    store: Storage,
    storage: JobStorage,
    allocation: Allocation | None = None,
    evaluation: Evaluation | None = None,
) -> tuple[int, list[CompressionTask]]:
    """Store the config, the request and the tasks of a job; return their size, and the tasks."""
    checkpoint = relocated(job.checkpoint, storage.paths)
    tasks = cut_tasks(
        job.plan,
        checkpoint,
        source_url=store.url,
        store_url=store.url,
        parts_prefix=f"{storage.prefix}/parts",
        task_bytes=storage.task_bytes,
        digests=storage.digests,
        sensitivities=job.sensitivities and relocated(job.sensitivities, storage.paths),
        second_moments=job.second_moments,
    )
    if storage.shared_parts is not None:
        tasks = with_shared_parts(tasks, storage.shared_parts)
    request = JobRequest(
        config=job.config,
        checkpoint=checkpoint,
        plan=job.plan,
        allocation=allocation,
        evaluation=evaluation,
    )
    return write_job(store, storage.prefix, request, tasks), tasks


def result_bytes(plan: Plan) -> int:
    """Return the size of an artifact and its exports, each at most as large as the model."""
    return plan.predicted_size_bytes + len(plan.exports) * plan.size_before_bytes


def with_own_calibration(
    spec: JobSpec, job: JobPlan, store: Storage, storage: JobStorage
) -> tuple[JobPlan, int]:
    """Copy what a job uses of its calibration; return the job with the copies, and their size.

    A calibration can be deleted before the job runs.
    """
    if spec.options.calibration_id is None:
        return job, 0
    calibration, _ = read_result(store, job_folder(spec.options.calibration_id))
    write_calibration_samples(store, storage.prefix, calibration.sample_sha256)
    sensitivities, moments = (
        each and copy_result_file(store, each, f"{storage.prefix}/parts")
        for each in (job.sensitivities, job.second_moments)
    )
    copies = [each.files[0].size_bytes for each in (sensitivities, moments) if each is not None]
    return replace(job, sensitivities=sensitivities, second_moments=moments), sum(copies)


def needed_files(spec: JobSpec, job: JobPlan, storage: JobStorage) -> tuple[str, ...]:
    """Return the digests of the uploaded files that a job needs."""
    inputs = {file.sha256 for file in spec.inputs.files if file.sha256} if spec.inputs else set()
    return tuple({file.sha256 or "" for file in job.files()} & storage.paths.keys() | inputs)


def plan_request(spec: JobSpec, store: Storage, limits: Limits) -> JobPlan:
    """Return the plan of a request, by its config alone.

    Raises:
        BadInput: see `plan`.
    """
    options, config = spec.options, read_config(spec.config)
    model = _checkpoint(spec.model, store, limits)
    sensitivities = moments = None
    if spec.sensitivities is not None:
        sensitivities = _checkpoint(spec.sensitivities, store, limits)
    if options.calibration_id is not None:
        if sensitivities is not None:
            raise BadInput("send calibration_id or sensitivities, not both")
        prefix = job_folder(options.calibration_id)
        sensitivities, moments = match_result(store, prefix, model, limits)
    job = plan_checkpoint(
        config,
        model,
        sensitivities,
        limits,
        strict=options.strict,
        second_moments=moments if options.feedback else None,
    )
    sources = tuple(export_sources(model))
    if "graph" in sources and any(FORMATS[to].needs == "graph" for to in options.formats):
        read_runnable(store, model.files[0], limits)
    if spec.inputs is not None:
        check_evaluation(store, model, spec.inputs.files, limits)
    return replace(job, plan=plan_exports(job.plan, options.formats, sources))


def _checkpoint(source: ModelSource, store: Storage, limits: Limits) -> Checkpoint:
    """Return the contents of the files; a stored model was parsed when it was uploaded."""
    if source.model_id is None:
        return read_checkpoint(store, source.files, limits)
    return load_checkpoint(store, source.model_id, source.files, limits)


def relocated(checkpoint: Checkpoint, paths: Mapping[str, str]) -> Checkpoint:
    """Return a checkpoint whose files are at these paths, so that equal bytes are stored once."""
    files = [
        file.model_copy(update={"path": paths.get(file.sha256 or "", file.path)})
        for file in checkpoint.files
    ]
    return checkpoint.model_copy(update={"files": tuple(files)})
