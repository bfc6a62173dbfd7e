"""Messages in a job's log: what its owner wants to read about its progress."""

from collections.abc import Mapping
from dataclasses import dataclass

from palettery.schemas.events import Level
from palettery.schemas.plan import Plan
from palettery.schemas.problem import Problem


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
REUSED = LogMessage("an earlier job did exactly the same; its artifact is reused")


def plan_summary(plan: Plan) -> LogMessage:
    """Return how many tensors the plan palettizes."""
    chosen, total = len(plan.palettized()), _counted(len(plan.tensors), "tensor")
    return LogMessage(
        f"{chosen:,} of {total} to palettize; {plan.size_before_bytes:,} bytes in all"
    )


def queue_position(jobs_ahead: int) -> LogMessage:
    """Return how many other jobs are served before this one."""
    return LogMessage(
        f"queued behind {_counted(jobs_ahead, 'job')}" if jobs_ahead else "queued; next in line"
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
        f"cut into {_counted(tasks, 'task')}; {finished:,} finished before, "
        f"{_counted(reused, 'result')} of earlier jobs reused"
    )


def worker_death(activity: str, tensor: str | None) -> LogMessage:
    """Return that a worker died and its task is repeated; `tensor` if it was about one alone."""
    message = f"a worker died that was {activity}, or was to; another one tries it"
    return LogMessage(message, "warning", tensor)


def retry(reason: str) -> LogMessage:
    """Return that the job waits for something that is unavailable."""
    return LogMessage(f"{reason}; the job goes on once that is over", "warning")


def kept_tensors(reasons: Mapping[str, int]) -> list[LogMessage]:
    """Return how many tensors are not palettized, one message per reason."""
    return [
        LogMessage(f"{_counted(count, 'tensor')} kept: {reason}")
        for reason, count in reasons.items()
    ]


def size_summary(before: int, after: int) -> LogMessage:
    """Return the sizes of the model and of its artifact."""
    return LogMessage(f"{before:,} bytes of tensors became an artifact of {after:,} bytes")


def failure(problem: Problem) -> LogMessage:
    """Return why the job failed."""
    return LogMessage(f"failed: {problem.detail}", "error")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
