"""Messages in a job's log, which inform its owner about the progress."""

from collections.abc import Mapping
from dataclasses import dataclass

from palettery.schemas.evaluation import Evaluation
from palettery.schemas.events import Level
from palettery.schemas.plan import Plan
from palettery.schemas.problem import Problem
from palettery.schemas.targets import Allocation, MeasuredSize

MAX_OUTPUTS = 10
"""Maximum number of outputs of a model that the log mentions."""


@dataclass(frozen=True)
class LogMessage:
    """A log message that is not stored yet."""

    message: str
    level: Level = "info"
    tensor: str | None = None
    """Name of the tensor that the message is about; None for the whole job."""


CANCELLED = LogMessage("cancelled", "warning")
WRITTEN = LogMessage("the artifact is written")
VERIFIED = LogMessage("the artifact was read back, and agrees with the model")
SCORED = LogMessage("the scores of all tensors are stored")
OUTPUTS_REUSED = LogMessage(
    "an earlier evaluation ran the model on these inputs; its outputs are reused"
)
RUNNING_BEFORE = LogMessage("running the model on the inputs of the evaluation")
RUNNING_AFTER = LogMessage("running the palettized model on the inputs of the evaluation")
REUSED = LogMessage("an earlier job did exactly the same; its artifact is reused")


def plan_summary(plan: Plan) -> LogMessage:
    """Return the message with the number of tensors that the plan palettizes."""
    palettized, total = len(plan.palettized()), _pluralize(len(plan.tensors), "tensor")
    return LogMessage(
        f"{palettized:,} of {total} to palettize; {plan.size_before_bytes:,} bytes in all"
    )


def scoring_summary(tensors: int, unscored: int) -> LogMessage:
    """Return how many tensors a target may change, and how many have to be scored for it."""
    subject = _pluralize(tensors, "tensor")
    return LogMessage(f"{subject} may be changed for the target; {unscored:,} to score")


def choice_summary(allocation: Allocation) -> tuple[LogMessage, ...]:
    """Return the message with the chosen size, and notes about the choice."""
    of = "" if allocation.target_bytes is None else f" of {allocation.target_bytes:,}"
    text = f"chosen for the target: {allocation.size_bytes:,}{of} bytes"
    return LogMessage(text), *(LogMessage(note) for note in allocation.notes)


def measured_size(number: int, measured: MeasuredSize) -> LogMessage:
    """Return what a search for a quality has measured."""
    values = ", ".join(f"{name} {value:.6f}" for name, value in measured.reached.items())
    outcome = "reached" if measured.is_reached else "not reached"
    return LogMessage(f"trial {number}: {measured.size_bytes:,} bytes, {values}: {outcome}")


def queue_position(jobs_ahead: int) -> LogMessage:
    """Return how many other jobs are served before this one."""
    return LogMessage(
        f"queued behind {_pluralize(jobs_ahead, 'job')}" if jobs_ahead else "queued; next in line"
    )


def started_by(executor_id: str) -> LogMessage:
    """Return which controller started the job."""
    return LogMessage(f"started by controller {executor_id}")


def resumed_by(executor_id: str) -> LogMessage:
    """Return which controller resumed the job after a crash or a shutdown."""
    return LogMessage(f"resumed by controller {executor_id}; finished work is not repeated")


def task_summary(tasks: int, finished: int, reused: int) -> LogMessage:
    """Return how the job is divided into tasks."""
    return LogMessage(
        f"cut into {_pluralize(tasks, 'task')}; {finished:,} finished before, "
        f"{_pluralize(reused, 'result')} of earlier jobs reused"
    )


def worker_death(activity: str, tensor: str | None) -> LogMessage:
    """Return the message that a worker died; `tensor` if its task was about a single one."""
    message = f"a worker died that was {activity}, or was to; another one tries it"
    return LogMessage(message, "warning", tensor)


def retry(reason: str) -> LogMessage:
    """Return the message that the job waits for something that is unavailable."""
    return LogMessage(f"{reason}; the job goes on once that is over", "warning")


def kept_tensors(reasons: Mapping[str, int]) -> list[LogMessage]:
    """Return how many tensors are not palettized, one message per reason."""
    return [
        LogMessage(f"{_pluralize(count, 'tensor')} kept: {reason}")
        for reason, count in reasons.items()
    ]


def size_summary(before: int, after: int) -> LogMessage:
    """Return the sizes of the model and of its artifact."""
    return LogMessage(f"{before:,} bytes of tensors became an artifact of {after:,} bytes")


def samples_done(done: int, total: int, *, is_after: bool) -> LogMessage:
    """Return how many samples have run."""
    which = "palettized model" if is_after else "model"
    return LogMessage(f"the {which} has run on {done:,} of {_pluralize(total, 'sample')}")


def evaluation_summary(evaluation: Evaluation) -> list[LogMessage]:
    """Return the cosine similarity of each output, and warnings about the inputs."""
    outputs = [
        LogMessage(
            f"output {output.name!r}, {_pluralize(evaluation.samples, 'sample')}: cosine "
            f"{output.sample_cosine.mean:.6f}, 5th percentile {output.sample_cosine.p5:.6f}, "
            f"least {output.sample_cosine.min:.6f}"
        )
        for output in evaluation.outputs[:MAX_OUTPUTS]
    ]
    return [*outputs, *(LogMessage(text, "warning") for text in evaluation.warnings)]


def failure(problem: Problem) -> LogMessage:
    """Return why the job failed."""
    return LogMessage(f"failed: {problem.detail}", "error")


def _pluralize(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
