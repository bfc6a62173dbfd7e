"""Lines of a job's log: what a user wants to read of its course."""

from collections.abc import Mapping
from dataclasses import dataclass

from palettery.schemas.events import Level
from palettery.schemas.plan import Plan
from palettery.schemas.problem import Problem


@dataclass(frozen=True)
class Line:
    """One line, not yet written."""

    message: str
    level: Level = "info"
    tensor: str | None = None
    """The tensor that it is about; None for the job."""


CANCELLED = Line("cancelled", "warning")
WRITTEN = Line("the artifact is written")
VERIFIED = Line("the artifact was read back, and agrees with the model")
TAKEN_OVER = Line("an earlier job had done the very same; its artifact was taken over")


def planned(plan: Plan) -> Line:
    """What is to be done."""
    chosen, of = len(plan.palettized()), _counted(len(plan.tensors), "tensor")
    return Line(f"{chosen:,} of {of} to palettize; {plan.size_before_bytes:,} bytes in all")


def queued(behind: int) -> Line:
    """How many other jobs go first."""
    return Line(f"queued behind {_counted(behind, 'job')}" if behind else "queued; next in line")


def taken_up(executor_id: str) -> Line:
    """Who runs it."""
    return Line(f"taken up by controller {executor_id}")


def taken_up_again(executor_id: str) -> Line:
    """Who goes on with it, after a crash or a stop."""
    return Line(f"taken up again by controller {executor_id}; what is finished is not done again")


def cut(tasks: int, finished: int, reused: int) -> Line:
    """How the work is shared out."""
    return Line(
        f"cut into {_counted(tasks, 'task')}; {finished:,} finished before, "
        f"{_counted(reused, 'result')} of earlier jobs reused"
    )


def worker_died(doing: str, tensor: str | None) -> Line:
    """That work has to be done again; with a name if it is about one tensor alone."""
    message = f"a worker died that was {doing}, or was to; another one tries it"
    return Line(message, "warning", tensor)


def trying_again(why: str) -> Line:
    """That something was away."""
    return Line(f"{why}; the job goes on once that is over", "warning")


def kept(reasons: Mapping[str, int]) -> list[Line]:
    """Tensors that were left as they are, by reason."""
    return [Line(f"{_counted(count, 'tensor')} kept: {why}") for why, count in reasons.items()]


def shrunk(before: int, after: int) -> Line:
    """What it was good for."""
    return Line(f"{before:,} bytes of tensors became an artifact of {after:,} bytes")


def failed(told: Problem) -> Line:
    """Why it ended without a result."""
    return Line(f"failed: {told.detail}", "error")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
