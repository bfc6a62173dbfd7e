"""The choice of a job's config, once the tensors of its model are scored.

Arguments and results of these functions are pickled: the processes of `document_pool` run them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from palettery.app.allocation.allocate import Allocator
from palettery.app.compression.result_keys import request_sha256
from palettery.app.events import log_messages as lines
from palettery.app.events.log_messages import LogMessage
from palettery.app.jobs.preparation import JobStorage, result_bytes, write_documents
from palettery.app.jobs.target_documents import collect_scores, read_target, stored_curve
from palettery.app.jobs.targets import (
    allocator_of,
    curve_path,
    joint_sha256,
    model_of,
    with_exports,
)
from palettery.app.planning.exports import check_expressible
from palettery.app.planning.job_plan import JobPlan
from palettery.app.planning.second_moments import apply_second_moments
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.open import shared_storage
from palettery.schemas.evaluation import Evaluation
from palettery.schemas.jobs import Progress
from palettery.schemas.targets import Allocation
from palettery.schemas.tasks import TargetRequest


@dataclass(frozen=True)
class ChosenJob:
    """A job whose config is chosen, and whose tasks are stored."""

    size_bytes: int
    """Predicted size of the artifact's files."""
    progress: Progress
    stored_bytes: int
    request_sha256: str | None
    """Digest of what the artifact depends on; None if no other job may use it."""
    messages: tuple[LogMessage, ...]


class ScoredTarget(NamedTuple):
    """Request of a job with a target, and the allocator of its scored model."""

    request: TargetRequest
    allocator: Allocator
    curve_path: str
    """Path of the curve: the least error at each size."""


def read_scored(
    store: Storage, prefix: str, paths: Mapping[str, str], limits: Limits
) -> ScoredTarget:
    """Return the request and the allocator of a job; for `paths` see `collect_scores`."""
    request = read_target(store, prefix)
    model = model_of(request, limits)
    scores = collect_scores(store, request, prefix, paths)
    allocator = allocator_of(model.job, model.candidates, scores, limits)
    return ScoredTarget(request, allocator, curve_path(request.scores_path, model))


def store_scores(store_url: str, prefix: str, paths: Mapping[str, str], limits: Limits) -> None:
    """Store the scores of a whole model, from those of its tensors, and the curve."""
    store = shared_storage(store_url)
    scored = read_scored(store, prefix, paths, limits)
    stored_curve(store, scored.curve_path, scored.allocator, computes_curve=True)


def choose(
    store_url: str, storage: JobStorage, paths: Mapping[str, str], limits: Limits
) -> ChosenJob:
    """Choose the config of a job, and store its tasks.

    Raises:
        BadInput: no choice reaches the target.
        Inexpressible: a format cannot express every tensor, and dense ones are not allowed.
    """
    store = shared_storage(store_url)
    request, allocator, _ = read_scored(store, storage.prefix, paths, limits)
    assert request.target is not None  # noqa: S101 - a job that chooses has one
    allocation, job = allocator.allocate(request.target)
    job = complete_plan(job, request)
    return write_choice(store, storage, allocation, job, request_sha256(job))


def complete_plan(job: JobPlan, request: TargetRequest) -> JobPlan:
    """Add the error feedback and the exports of the request to the plan of a choice.

    Raises:
        Inexpressible: a format cannot express every tensor, and dense ones are not allowed.
    """
    if request.second_moments is not None:
        plan = apply_second_moments(job.plan, request.second_moments)
        job = replace(job, plan=plan, second_moments=request.second_moments)
    job = with_exports(job, request.formats)
    if not request.keep_dense:
        check_expressible(job.plan)
    return job


def write_choice(
    store: Storage,
    storage: JobStorage,
    allocation: Allocation,
    job: JobPlan,
    sha256: str | None = None,
    evaluation: Evaluation | None = None,
) -> ChosenJob:
    """Store the documents and tasks of a choice; see `JobRequest` for its evaluation.

    `sha256` is the digest of the request without the choice; None if no other job may use its
    artifact.
    """
    documents_bytes, tasks = write_documents(job, store, storage, allocation, evaluation)
    return ChosenJob(
        size_bytes=allocation.size_bytes,
        progress=Progress(
            tensors_total=len(job.plan.palettized()),
            bytes_total=sum(task.size_bytes for task in tasks),
        ),
        stored_bytes=documents_bytes + result_bytes(job.plan),
        request_sha256=sha256 and joint_sha256(sha256, allocation.model_dump_json()),
        messages=lines.choice_summary(allocation),
    )
