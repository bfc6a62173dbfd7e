"""Trials of a job that seeks the smallest artifact of a quality: what to measure, and the result.

Each trial has a folder, with its plan and artifact, until it is measured. All share the job's
parts, which are named by content, so that a tensor whose spec did not change is not computed again.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from palettery.app.allocation.measured_quality import (
    best_measured,
    measured_allocation,
    measured_size,
    propose,
)
from palettery.app.compression.job_folder import (
    read_calibration_samples,
    read_report,
    samples_path,
    write_calibration_samples,
)
from palettery.app.errors import ObjectMissing
from palettery.app.jobs.preparation import JobStorage
from palettery.app.jobs.target_choices import ChosenJob, completed, read_scored, write_choice
from palettery.app.jobs.target_documents import stored_curve
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.open import shared_storage
from palettery.schemas.base import Schema
from palettery.schemas.evaluation import Evaluation, Quality
from palettery.schemas.targets import Allocation, MeasuredSize
from palettery.schemas.tasks import TargetRequest

_MEASURED: Final = "measured.json"


class Search(Schema):
    """What a search has measured."""

    measured: tuple[MeasuredSize, ...] = ()
    """Every choice that was tried, in order; one is there again for each further limit."""
    evaluation: Evaluation | None = None
    """Evaluation of the best choice."""


@dataclass(frozen=True)
class Trial:
    """A choice that is to be measured, and whose tasks are stored."""

    number: int
    prefix: str
    """Its folder."""
    limit_bytes: int
    allocation: Allocation
    chosen: ChosenJob


def read_search(store: Storage, prefix: str) -> Search:
    """Return what the search of a job has measured."""
    try:
        return Search.model_validate_json(bytes(store.read(f"{prefix}/{_MEASURED}")))
    except ObjectMissing:
        return Search()


def next_trial(
    store_url: str, storage: JobStorage, paths: Mapping[str, str], limits: Limits
) -> Trial | None:
    """Store the tasks of the choice to measure next; return None if the search has ended.

    `paths` are those of the scores of each tensor that was scored for the job. The processes of
    `document_pool` run this.

    Raises:
        Inexpressible: a format cannot express every tensor, and dense ones are not allowed.
    """
    store = shared_storage(store_url)
    scored = read_scored(store, storage.prefix, paths, limits)
    curve = stored_curve(store, scored.curve_path, scored.allocator, draws=True)
    search = read_search(store, storage.prefix)
    measured = list(search.measured)
    proposal = propose(scored.allocator, curve or (), _quality(scored.request), measured)
    _write(store, storage.prefix, search.model_copy(update={"measured": tuple(measured)}))
    if proposal is None:
        return None
    number = len(measured)
    folder = f"{storage.prefix}/trials/{number}"
    job = completed(proposal.job, scored.request)
    job = replace(job, plan=job.plan.model_copy(update={"exports": ()}))
    write_calibration_samples(store, folder, read_calibration_samples(store, storage.prefix))
    chosen = write_choice(store, replace(storage, prefix=folder), proposal.allocation, job)
    return Trial(number, folder, proposal.limit_bytes, proposal.allocation, chosen)


def read_evaluation(store: Storage, trial: Trial) -> Evaluation | None:
    """Return the evaluation of a trial that was measured before a crash; else None."""
    try:
        return read_report(store, trial.prefix).evaluation
    except ObjectMissing:
        return None


def record_trial(
    store: Storage,
    prefix: str,
    trial: Trial,
    quality: Quality,
    evaluation: Evaluation,
    evaluation_id: str,
) -> MeasuredSize:
    """Store what was measured of a trial, and delete its folder; return what was measured."""
    search = read_search(store, prefix)
    size = measured_size(trial.limit_bytes, trial.allocation, quality, evaluation)
    measured = (*search.measured, size)
    if best_measured(measured, quality) is not size:
        evaluation = search.evaluation or evaluation
    else:
        with suppress(ObjectMissing):  # too many samples
            samples = (samples_path(folder, evaluation_id) for folder in (trial.prefix, prefix))
            store.copy(*samples)
    _write(store, prefix, Search(measured=measured, evaluation=evaluation))
    store.delete_folder(trial.prefix)
    return size


def choose_measured(
    store_url: str, storage: JobStorage, paths: Mapping[str, str], limits: Limits
) -> ChosenJob:
    """Choose the best of what was measured, and store its tasks.

    The processes of `document_pool` run this.
    """
    store = shared_storage(store_url)
    request, allocator, _ = read_scored(store, storage.prefix, paths, limits)
    search = read_search(store, storage.prefix)
    best = best_measured(search.measured, _quality(request))
    allocation, job = measured_allocation(allocator, best, search.measured)
    job = completed(job, request)
    return write_choice(store, storage, allocation, job, evaluation=search.evaluation)


def _quality(request: TargetRequest) -> Quality:
    assert request.target is not None  # noqa: S101 - callers checked
    assert request.target.quality is not None  # noqa: S101
    return request.target.quality


def _write(store: Storage, prefix: str, search: Search) -> None:
    store.write(f"{prefix}/{_MEASURED}", search.model_dump_json().encode())
