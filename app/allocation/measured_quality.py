"""A target of a quality: which choice to measure next, and what was measured of the chosen one."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from palettery.app.allocation.allocate import Allocator
from palettery.app.allocation.quality_search import Trial, best_trial, next_limit
from palettery.app.errors import BadInput
from palettery.app.evaluation.goals import excess_loss, least_reached, quality_goals
from palettery.app.planning.job_plan import JobPlan
from palettery.schemas.evaluation import Evaluation, Quality
from palettery.schemas.targets import Allocation, CurvePoint, MeasuredSize, Target

_WITHOUT_CALIBRATION: Final = (
    "the sizes were proposed without a calibration; with one, the same quality usually takes fewer "
    "bytes"
)


class Proposal(NamedTuple):
    """A choice that is to be measured."""

    limit_bytes: int
    allocation: Allocation
    job: JobPlan


def check_measurable(target: Target) -> None:
    """Check that a target can be planned, without running the model.

    Raises:
        BadInput: it is a quality.
    """
    if target.quality is not None:
        raise BadInput(
            "a plan cannot measure a quality, which takes runs of the model: submit a job with "
            "this target, or compress to it; or plan a size, such as 16MB"
        )


def propose(
    allocator: Allocator,
    curve: Sequence[CurvePoint],
    quality: Quality,
    measured: list[MeasuredSize],
) -> Proposal | None:
    """Return the choice to measure next; None if the search has ended.

    A choice that was measured already is added to `measured` with its new limit.
    """
    while (limit := next_limit(curve, _trials(measured, quality))) is not None:
        allocation, job = allocator.allocate(Target(size_bytes=limit))
        same = [each for each in measured if each.size_bytes == allocation.size_bytes]
        if not same:
            return Proposal(limit, allocation, job)
        measured.append(same[0].model_copy(update={"limit_bytes": limit}))
    return None


def measured_size(
    limit_bytes: int, allocation: Allocation, quality: Quality, evaluation: Evaluation
) -> MeasuredSize:
    """Return what was measured of a choice."""
    return MeasuredSize(
        limit_bytes=limit_bytes,
        size_bytes=allocation.size_bytes,
        error=allocation.error,
        reached=least_reached(quality_goals(quality), evaluation.outputs),
        is_reached=not evaluation.missed,
    )


def best_measured(measured: Sequence[MeasuredSize], quality: Quality) -> MeasuredSize:
    """Return the smallest that has the quality; without one, the one that lacks least."""
    trials = _trials(measured, quality)
    return measured[trials.index(best_trial(trials))]


def measured_allocation(
    allocator: Allocator, best: MeasuredSize, measured: Sequence[MeasuredSize]
) -> tuple[Allocation, JobPlan]:
    """Return the best choice and its plan, with all that was measured."""
    allocation, job = allocator.allocate(Target(size_bytes=best.limit_bytes))
    distinct = {each.size_bytes: each for each in reversed(measured)}
    update = {
        "target_bytes": None,
        "notes": (*allocator.notes, *(() if allocation.weighted else (_WITHOUT_CALIBRATION,))),
        "measured": tuple(each for each in measured if distinct[each.size_bytes] is each),
    }
    return allocation.model_copy(update=update), job


def _trials(measured: Sequence[MeasuredSize], quality: Quality) -> list[Trial]:
    goals = quality_goals(quality)
    return [
        Trial(
            each.limit_bytes,
            each.size_bytes,
            each.error,
            excess_loss(goals, each.reached),
            each.is_reached,
        )
        for each in measured
    ]
