"""Targets of requests: what has to be scored, and the choice of a config.

Arguments and results of these functions are pickled: the processes of `document_pool` run them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from palettery.app.allocation.allocate import Allocator
from palettery.app.allocation.candidates import Candidates, find_candidates
from palettery.app.allocation.scoring import (
    is_scored,
    is_tensor_scored,
    settings_sha256,
    tensors_to_score,
    unscored,
)
from palettery.app.allocation.target_parsing import target_bytes
from palettery.app.compression.job_folder import write_request
from palettery.app.events import log_messages as lines
from palettery.app.jobs.preparation import (
    JobSpec,
    JobStorage,
    PreparedJob,
    needed_files,
    plan_request,
    relocated,
    with_own_calibration,
)
from palettery.app.jobs.target_documents import (
    read_model_scores,
    stored_curve,
    write_target,
)
from palettery.app.models.stored_contents import index_folder
from palettery.app.planning.exports import export_sources, plan_exports
from palettery.app.planning.job_plan import JobPlan
from palettery.app.planning.tasks import choose_task_bytes, group_slices
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.open import shared_storage
from palettery.schemas.exports import ExportFormat
from palettery.schemas.job_options import JobOptions
from palettery.schemas.jobs import Progress
from palettery.schemas.targets import Choices, ModelScores, PlannedJob, Target
from palettery.schemas.tasks import JobRequest, ScoreTask, TargetRequest

NO_SCORES: Final = b"scores"
"""Result of `plan_target` if the model has to be scored first."""
NO_CURVE: Final = b"curve"
"""Result of `plan_target` if the curve has to be computed, which may take seconds."""


class _Model(NamedTuple):
    """What the choices of a request are made from."""

    job: JobPlan
    """Plan of the config alone."""
    choices: Choices
    candidates: Candidates


def plan_target(
    spec: JobSpec, store_url: str, limits: Limits, owner: str, *, computes_curve: bool
) -> bytes:
    """Return what a job with a target would do, as JSON of `PlannedJob`.

    Without scores of every choice the result is `NO_SCORES`; without a stored curve it is
    `NO_CURVE`, unless `computes_curve` is set.

    Raises:
        BadInput: as `prepare_target`.
    """
    store = shared_storage(store_url)
    model, target = _model(spec, store, limits), _target(spec)
    path = _scores_path(spec, owner, model, "")
    scores = read_model_scores(store, path)
    if scores is None or not is_scored(model.candidates, scores):
        _check(model, target, limits)
        return NO_SCORES
    allocator = allocator_of(model.job, model.candidates, scores, limits)
    curve = stored_curve(store, curve_path(path, model), allocator, computes_curve=computes_curve)
    if curve is None:
        return NO_CURVE
    allocation, job = allocator.allocate(target)
    plan = with_exports(job, spec.options.formats).plan
    planned = PlannedJob(
        **dict(plan),
        allocation=allocation.model_copy(update={"curve": curve, "uniform": allocator.uniform()}),
    )
    return planned.model_dump_json().encode()


def scores_sha256(spec: JobSpec, store_url: str, limits: Limits, owner: str) -> str:
    """Return a digest that is equal for requests that need the same scores of the same model."""
    model = _model(spec, shared_storage(store_url), limits)
    return _needed_scores_sha256(_scores_path(spec, owner, model, ""), model)


def prepare_target(
    spec: JobSpec, store_url: str, limits: Limits, storage: JobStorage
) -> PreparedJob:
    """Store what a job needs to score its model and, unless its kind is `scores`, choose a config.

    Raises:
        BadInput: see `plan_request` and `find_candidates`; or no choice is small enough.
    """
    store = shared_storage(store_url)
    model, target = _model(spec, store, limits), _target(spec)
    _check(model, target, limits)
    options = spec.options
    path = _scores_path(spec, storage.owner, model, storage.prefix)
    job, copied_bytes = with_own_calibration(spec, model.job, store, storage)
    request = TargetRequest(
        target=target if spec.kind == "compression" else None,
        choices=model.choices,
        config=job.config,
        checkpoint=relocated(job.checkpoint, storage.paths),
        sensitivities=job.sensitivities and relocated(job.sensitivities, storage.paths),
        second_moments=job.second_moments,
        formats=tuple(options.formats),
        keep_dense=options.keep_dense,
        scores_path=path,
    )
    known = read_model_scores(store, path)
    tasks = _score_tasks(request, known, model.candidates, storage)
    documents_bytes = write_target(store, storage.prefix, request, tasks, known)
    if options.evaluate is not None:  # the model runs before its config is chosen
        before = JobRequest(config=job.config, checkpoint=request.checkpoint, plan=job.plan)
        documents_bytes += write_request(store, storage.prefix, before)
    changed = [*model.candidates.by_name.values()]
    size_bytes = job.plan.size_before_bytes
    most = min(size_bytes, target_bytes(target, job.checkpoint) or size_bytes)
    is_scoring = spec.kind == "scores"
    return PreparedJob(
        model_name=job.checkpoint.files[0].name,
        size_before_bytes=size_bytes,
        stored_bytes=documents_bytes
        + copied_bytes
        + (0 if is_scoring else most + len(options.formats) * size_bytes),
        progress=Progress(
            tensors_total=len(changed),
            bytes_total=sum(each.stored.size_bytes for each in changed),
        ),
        request_sha256=_needed_scores_sha256(path, model) if is_scoring else None,
        files=needed_files(spec, job, storage),
        first_line=lines.scoring_summary(len(changed), sum(len(task.tensors) for task in tasks)),
    )


def _target(spec: JobSpec) -> Target:
    assert spec.options.target is not None  # noqa: S101 - callers checked
    return spec.options.target


def _model(spec: JobSpec, store: Storage, limits: Limits) -> _Model:
    job, choices = plan_request(spec, store, limits), _choices(spec.options)
    return _Model(job, choices, find_candidates(job.config, job.checkpoint, choices, limits))


def model_of(request: TargetRequest, limits: Limits) -> _Model:
    """Return what the choices of a stored request are made from."""
    config, checkpoint, choices = request.config, request.checkpoint, request.choices
    candidates = find_candidates(config, checkpoint, choices, limits)
    job = JobPlan(config, checkpoint, request.sensitivities, candidates.plan)
    return _Model(job, choices, candidates)


def _choices(options: JobOptions) -> Choices:
    """Return the choices, limited to those that the requested formats can express."""
    choices = options.choices or Choices()
    if options.keep_dense:
        return choices
    formats = tuple(dict.fromkeys((*choices.formats, *options.formats)))
    return choices.model_copy(update={"formats": formats})


def _check(model: _Model, target: Target, limits: Limits) -> None:
    """Check that the target can be reached, before anything is scored."""
    allocator_of(model.job, model.candidates, unscored(model.candidates), limits).check(target)


def allocator_of(
    job: JobPlan, candidates: Candidates, scores: ModelScores, limits: Limits
) -> Allocator:
    """Return the choices for any number of targets of a request."""
    return Allocator(candidates, job.checkpoint, job.sensitivities, scores, limits)


def with_exports(job: JobPlan, formats: Sequence[ExportFormat]) -> JobPlan:
    """Return a plan that also describes the exports in these formats."""
    sources = tuple(export_sources(job.checkpoint))
    return replace(job, plan=plan_exports(job.plan, formats, sources))


def _score_tasks(
    request: TargetRequest, known: ModelScores | None, candidates: Candidates, storage: JobStorage
) -> list[ScoreTask]:
    """Return the tasks that score what is not scored yet, of about equal bytes."""
    tensors = [
        tensor
        for tensor in tensors_to_score(candidates, request.checkpoint, request.sensitivities)
        if known is None or not is_tensor_scored(candidates.by_name[tensor.name], known)
    ]
    tensors.sort(key=lambda tensor: (tensor.path, tensor.offset))
    task_bytes = choose_task_bytes(tensors, storage.task_bytes)
    return [
        ScoreTask(
            store_url="", prefix=storage.prefix, cancel_path="", owner=storage.owner, tensors=some
        )
        for some in map(tuple, group_slices(tensors, task_bytes))
    ]


def _scores_path(spec: JobSpec, owner: str, model: _Model, prefix: str) -> str:
    """Return the path of the scores of a model: beside its contents, or in the job's folder."""
    if spec.model.model_id is None:
        return f"{prefix}/scores.json"
    job = model.job
    settings = settings_sha256(model.candidates, job.checkpoint, job.sensitivities)
    return f"{index_folder(spec.model.model_id)}/scores-{joint_sha256(owner, settings)}.json"


def curve_path(scores_path: str, model: _Model) -> str:
    """Return the path of the least errors at all sizes."""
    folder = scores_path.rpartition("/")[0]
    return f"{folder}/curve-{_needed_scores_sha256(scores_path, model)}.json"


def _needed_scores_sha256(scores_path: str, model: _Model) -> str:
    """Return the digest of all that a curve depends on."""
    config = model.job.config.model_dump_json(exclude_unset=True)
    return joint_sha256(scores_path, config, model.choices.model_dump_json())


def joint_sha256(*parts: str) -> str:
    """Return the digest of several texts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
