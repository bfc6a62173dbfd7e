"""From a request to a plan, or to all that a job needs in the store.

Arguments and results of these functions are pickled: the processes of `document_pool` run them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from palettery.app.artifacts.export.formats import FORMATS
from palettery.app.checkpoints.pt2_runnable import read_runnable
from palettery.app.checkpoints.read import read_checkpoint
from palettery.app.compression.job_folder import write_job
from palettery.app.compression.result_keys import request_sha256
from palettery.app.configs.documents import ConfigDocument, read_config
from palettery.app.events.log_messages import Line, planned
from palettery.app.models.indexing import model_checkpoint
from palettery.app.planning.exports import check_expressible, plan_exports
from palettery.app.planning.job_plan import JobPlan, plan_checkpoint
from palettery.app.planning.tasks import cut_tasks
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.open import shared_storage
from palettery.schemas.checkpoint import Checkpoint, StoredFile
from palettery.schemas.exports import ExportFormat
from palettery.schemas.jobs import Progress
from palettery.schemas.plan import Plan
from palettery.schemas.tasks import JobRequest


@dataclass(frozen=True)
class ModelSource:
    """Files that belong together, in the store."""

    files: tuple[StoredFile, ...]
    model_id: str | None = None
    """The model that they are; None for files that came with the request."""


@dataclass(frozen=True)
class JobSpec:
    """What a request asks for; everything that it names has been found."""

    model: ModelSource
    sensitivities: ModelSource | None
    config: ConfigDocument
    strict: bool
    """Refuse what cannot all be done."""
    formats: tuple[ExportFormat, ...]
    """Other forms that the artifact is to have."""
    keep_dense: bool
    """Have tensors dense in a form that cannot express them."""
    size_bytes: int
    """About what has to be parsed."""

    def files(self) -> list[StoredFile]:
        """All that it may need."""
        return [file for source in self._sources() for file in source.files]

    def brought(self) -> list[StoredFile]:
        """Those that came with the request."""
        sources = [source for source in self._sources() if source.model_id is None]
        return [file for source in sources for file in source.files]

    def _sources(self) -> list[ModelSource]:
        return [source for source in (self.model, self.sensitivities) if source is not None]


@dataclass(frozen=True)
class JobLocation:
    """Where a job is to lie, and how it is cut."""

    prefix: str
    """Its folder."""
    paths: Mapping[str, str]
    """Digest of each file -> where it is kept."""
    task_bytes: int
    digests: bool
    """Whether its results are to be found by their content."""


@dataclass(frozen=True)
class PreparedJob:
    """A job that lies in the store with all that it needs but its row."""

    model_name: str
    size_before_bytes: int
    stored_bytes: int
    """To be expected, of all that it stores."""
    progress: Progress
    request_sha256: str
    files: tuple[str, ...]
    """Digests of the files that it needs."""
    told: Line


def plan(order: JobSpec, store_url: str, limits: Limits) -> bytes:
    """What a job would do, as JSON of `Plan`.

    Raises:
        BadInput: see `read_config`, `read_checkpoint`, `plan_checkpoint`, `plan_exports` and
            `read_runnable`.
    """
    return _intake(order, shared_storage(store_url), limits).plan.model_dump_json().encode()


def prepare(order: JobSpec, store_url: str, limits: Limits, place: JobLocation) -> PreparedJob:
    """Store what a job needs to run.

    Raises:
        BadInput: as `plan`.
        Inexpressible: a form cannot express all of it, and that is not wanted.
    """
    store = shared_storage(store_url)
    intake = _intake(order, store, limits)
    if not order.keep_dense:
        check_expressible(intake.plan)
    checkpoint = _at(intake.checkpoint, place.paths)
    tasks = cut_tasks(
        intake.plan,
        checkpoint,
        source_url=store_url,
        store_url=store_url,
        parts_prefix=f"{place.prefix}/parts",
        task_bytes=place.task_bytes,
        digests=place.digests,
        sensitivities=intake.sensitivities and _at(intake.sensitivities, place.paths),
    )
    request = JobRequest(config=intake.config, checkpoint=checkpoint, plan=intake.plan)
    documents_bytes = write_job(store, place.prefix, request, tasks)
    return PreparedJob(
        model_name=checkpoint.files[0].name,
        size_before_bytes=intake.plan.size_before_bytes,
        stored_bytes=documents_bytes + _made_bytes(intake.plan),
        progress=Progress(
            tensors_total=len(intake.plan.palettized()),
            bytes_total=sum(task.size_bytes for task in tasks),
        ),
        request_sha256=request_sha256(intake),
        files=tuple(file.sha256 for file in intake.files() if file.sha256),
        told=planned(intake.plan),
    )


def _made_bytes(plan: Plan) -> int:
    """Bytes of an artifact and its other forms, which have those of the model at most."""
    return plan.predicted_size_bytes + len(plan.exports) * plan.size_before_bytes


def _intake(order: JobSpec, store: Storage, limits: Limits) -> JobPlan:
    config = read_config(order.config)
    model = _checkpoint(order.model, store, limits)
    beside = None
    if order.sensitivities is not None:
        beside = _checkpoint(order.sensitivities, store, limits)
    intake = plan_checkpoint(config, model, beside, limits, strict=order.strict)
    has_graph = model.format == "pt2"
    if has_graph and any(FORMATS[to].needs_graph for to in order.formats):
        read_runnable(store, model.files[0], limits)
    return replace(intake, plan=plan_exports(intake.plan, order.formats, has_graph=has_graph))


def _checkpoint(source: ModelSource, store: Storage, limits: Limits) -> Checkpoint:
    """What is in the files; of a model, as it was read before."""
    if source.model_id is None:
        return read_checkpoint(store, source.files, limits)
    return model_checkpoint(store, source.model_id, source.files, limits)


def _at(checkpoint: Checkpoint, paths: Mapping[str, str]) -> Checkpoint:
    """With files where they are kept, so that the same bytes are kept once."""
    files = [
        file.model_copy(update={"path": paths[file.sha256]}) if file.sha256 else file
        for file in checkpoint.files
    ]
    return checkpoint.model_copy(update={"files": tuple(files)})
