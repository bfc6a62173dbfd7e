"""Goals of an evaluation: minimum values of measures, such as `cosine=0.98`."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from palettery.app.errors import BadInput
from palettery.schemas.config.errors import describe_errors
from palettery.schemas.evaluation import PERCENTILES, ComparedOutput, MissedGoal, Quality

MAX_DESCRIBED = 3
"""Maximum number of missed goals in one message."""
LEAST_LOSS = 1e-12
"""Loss that a goal allows at least when losses are compared; that of cosine=1 is 0."""
MEASURES: Mapping[str, Callable[[ComparedOutput], float | None]] = {
    "cosine": lambda output: output.sample_cosine.mean,
    "cosine.p5": lambda output: output.sample_cosine.p5,
    "cosine.min": lambda output: output.sample_cosine.min,
    "snr_db": lambda output: math.inf if output.snr_db is None else output.snr_db,
    "top1": lambda output: output.logits.top1_agreement if output.logits else None,
    "accuracy": lambda output: output.logits.accuracy_after if output.logits else None,
}
"""Name of a measure -> function that returns its value; None if the output has none."""


@dataclass(frozen=True)
class Goal:
    """A measure, and the minimum that it must have for every output."""

    measure: str
    minimum: float

    def __str__(self) -> str:
        return f"{self.measure}={self.minimum:g}"


def parse_goal(text: str) -> Goal:
    """Return the goal of a text such as `cosine=0.98`.

    Raises:
        BadInput: it is none.
    """
    measure, equals, number = text.partition("=")
    try:
        minimum = float(number)
    except ValueError:
        minimum = math.nan
    if measure not in MEASURES or not equals or not math.isfinite(minimum):
        raise BadInput(
            f"the goal is {text!r}; write one of {', '.join(MEASURES)}, then = and a number, such "
            "as cosine=0.98"
        )
    return Goal(measure, minimum)


def quality_goals(quality: Quality | None) -> list[Goal]:
    """Return the goals of a quality."""
    if quality is None:
        return []
    return [
        Goal(PERCENTILES[quality.percentile] if measure == "cosine" else measure, minimum)
        for measure, minimum in quality.measures().items()
    ]


def goals_quality(goals: Sequence[Goal]) -> Quality | None:
    """Return the quality that a server takes for these goals; None without goals.

    Raises:
        BadInput: there are several for one measure.
    """
    values: dict[str, float] = {}
    percentiles = {name: percentile for percentile, name in PERCENTILES.items()}
    for goal in goals:
        measure = goal.measure.partition(".")[0]
        if measure in values:
            raise BadInput(f"{measure} has two goals, and a server takes one of each measure")
        values[measure] = goal.minimum
        if (percentile := percentiles.get(goal.measure)) is not None:
            values["percentile"] = percentile
    try:
        return Quality.model_validate(values) if values else None
    except ValidationError as error:
        problems = "; ".join(problem.detail for problem in describe_errors(error, Quality))
        raise BadInput(f"the quality cannot be reached: {problems}") from error


def describe_missed(missed: Sequence[MissedGoal]) -> str:
    """Return the required and the measured values of the first missed goals, for a message."""
    parts = [
        f"{goal.goal} was required, and output {goal.output!r} has "
        f"{'nothing' if goal.reached is None else format(goal.reached, '.6g')}"
        for goal in missed[:MAX_DESCRIBED]
    ]
    more = len(missed) - len(parts)
    return "; ".join([*parts, *([f"and {more:,} more"] if more else [])])


def missed_goals(goals: Sequence[Goal], outputs: Sequence[ComparedOutput]) -> Iterator[MissedGoal]:
    """Yield each goal that an output misses.

    Raises:
        BadInput: no output has a number for a goal.
    """
    for goal in goals:
        for name, value in _reached(goal, outputs).items():
            if value < goal.minimum:
                yield MissedGoal(goal=str(goal), output=name, reached=value)


def least_reached(goals: Sequence[Goal], outputs: Sequence[ComparedOutput]) -> dict[str, float]:
    """Return the measure of each goal -> what the output that has least of it has.

    Raises:
        BadInput: no output has a number for a goal.
    """
    return {goal.measure: min(_reached(goal, outputs).values()) for goal in goals}


def excess_loss(goals: Sequence[Goal], reached: Mapping[str, float]) -> float:
    """Return the loss of a quality as a multiple of what the goals allow; of several, the largest.

    Goals are reached up to 1. A loss is 1 - cosine, or the share of the noise for `snr_db`.
    """
    return max(
        _loss(goal.measure, reached[goal.measure])
        / max(_loss(goal.measure, goal.minimum), LEAST_LOSS)
        for goal in goals
    )


def _loss(measure: str, value: float) -> float:
    return 10 ** (-value / 10) if measure == "snr_db" else max(0.0, 1 - value)


def _reached(goal: Goal, outputs: Sequence[ComparedOutput]) -> dict[str, float]:
    """Return the name of each output that has a number for a goal -> that number."""
    reached = {each.name: MEASURES[goal.measure](each) for each in outputs}
    known = {name: value for name, value in reached.items() if value is not None}
    if not known:
        raise BadInput(
            f"no output has a number for the goal {goal}: top1 and accuracy need an output "
            "named logits, accuracy also `labels` in the inputs"
        )
    return known
