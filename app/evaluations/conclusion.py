"""What the evaluation of a job says about it: a summary, and whether the quality was reached."""

from palettery.app.errors import QualityNotReached, problem
from palettery.app.evaluation.goals import describe_missed
from palettery.schemas.evaluation import Evaluation, EvaluationSummary
from palettery.schemas.jobs import Job
from palettery.schemas.problem import Problem
from palettery.schemas.targets import Target


def conclusion(
    job: Job, result: Evaluation | None
) -> tuple[EvaluationSummary | None, Problem | None]:
    """Return the summary of a job's evaluation, and the problem if its quality is too low."""
    if job.evaluation is None or result is None:
        return None, None
    summary = job.evaluation.model_copy(update=_measured(job.evaluation, result))
    if not result.missed:
        return summary, None
    return summary, problem(quality_error(result, job.target), f"/v1/jobs/{job.id}")


def quality_error(result: Evaluation, target: Target | None) -> QualityNotReached:
    """Return the error of an artifact that misses its quality."""
    advice = "compress with more bits or smaller groups, or require less"
    if target is not None and target.quality is not None:
        advice = (
            "it is the best that was measured: allow more bits or to keep tensors (`choices`), let "
            "the config set less, or require less"
        )
    return QualityNotReached(
        f"the quality was not reached: {describe_missed(result.missed)}; the artifact and the "
        f"report are kept: {advice}"
    )


def _measured(summary: EvaluationSummary, result: Evaluation) -> dict[str, object]:
    worst = min(result.outputs, key=lambda each: each.sample_cosine.mean or 0.0, default=None)
    snrs = [each.snr_db for each in result.outputs if each.snr_db is not None]
    return {
        "samples": result.samples,
        "is_reached": None if summary.at_least is None else not result.missed,
        "cosine": worst and worst.sample_cosine,
        "snr_db": min(snrs, default=None),
    }
