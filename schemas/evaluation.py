"""Evaluations: the effect of palettization on the outputs of a model."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from palettery.schemas.base import Schema
from palettery.schemas.problem import Problem
from palettery.schemas.uploads import InputsId, list_ids

EvaluationState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
PERCENTILES: Final[Mapping[int | None, str]] = {None: "cosine", 5: "cosine.p5", 0: "cosine.min"}
"""Percentile of `Quality` -> the name of its measure in texts such as `cosine.p5>=0.98`."""


class Quality(Schema):
    """Required quality of a compressed model: every output must reach each of these numbers."""

    cosine: float | None = Field(default=None, ge=-1, le=1)
    """Least cosine similarity of outputs, as the mean or a percentile over the samples."""
    percentile: Literal[0, 5] | None = None
    """Percentile over the samples to which `cosine` applies: 5, or 0 for the worst sample; null for
    the mean."""
    snr_db: float | None = Field(default=None, ge=-1000, le=1000)
    """Signal-to-noise ratio over all samples, in decibels."""
    top1: float | None = Field(default=None, ge=0, le=1)
    """Share of positions whose likeliest class is the same; for outputs of logits."""
    accuracy: float | None = Field(default=None, ge=0, le=1)
    """Accuracy on the `labels` of the inputs; for outputs of logits."""

    @model_validator(mode="after")
    def _check_measures(self) -> Self:
        if self.percentile is not None and self.cosine is None:
            raise ValueError("percentile is that of cosine; give cosine, too, such as 0.98")
        if self.measures() == {}:
            raise ValueError("name at least one of cosine, snr_db, top1 and accuracy")
        return self

    def measures(self) -> dict[str, float]:
        """Return the required measures, as name -> least value."""
        measures = self.model_dump(include={"cosine", "snr_db", "top1", "accuracy"})
        return {name: least for name, least in measures.items() if least is not None}


class Goals(Schema):
    """Quality that an evaluation requires."""

    at_least: Quality | None = None
    """Quality to reach; null to measure only."""


class EvaluationOptions(Goals):
    """Request to evaluate a compressed model on inputs that were uploaded before."""

    inputs_id: InputsId
    """Id of the upload with the inputs: a safetensors file with a tensor for each of the model's
    inputs, samples along the first axis; several ids for inputs of different lengths."""

    def inputs(self) -> tuple[str, ...]:
        """Return the ids of the inputs."""
        return list_ids(self.inputs_id)


class SampleStatistics(Schema):
    """Statistics of a measure over all samples."""

    mean: float | None
    """Mean; null if infinite, such as a signal-to-noise ratio without any error."""
    p5: float | None
    """5th percentile: one sample in twenty is not better."""
    min: float | None
    """Minimum."""


class LogitsComparison(Schema):
    """Comparison of logits, whose last axis is the classes."""

    top1_agreement: float = Field(ge=0, le=1)
    """Share of positions whose likeliest class is the same."""
    kl_divergence: NonNegativeFloat
    """Mean Kullback-Leibler divergence from the probabilities before, in nats."""
    accuracy_before: float | None = None
    """Share of `labels` that were the likeliest class before; null without labels."""
    accuracy_after: float | None = None
    """Share of `labels` that are the likeliest class after; null without labels."""
    loss_before: float | None = None
    """Mean cross entropy of `labels` before, in nats; null without labels."""
    loss_after: float | None = None
    """Mean cross entropy of `labels` after, in nats; null without labels."""


class ComparedSample(Schema):
    """Comparison of one output for one sample."""

    snr_db: float | None
    """Signal-to-noise ratio in decibels; null if the outputs are equal."""
    cosine: float
    """Cosine similarity."""


class ComparedOutput(Schema):
    """Comparison of one output of a model before and after palettization, on the same inputs."""

    name: str
    """Name, or position in the model's return value, such as `['out'][0]`; may be empty."""
    shape: tuple[NonNegativeInt, ...]
    """Shape of the output for all samples; lengths but the first are those of the last batch."""
    snr_db: float | None
    """Signal-to-noise ratio over all samples in decibels; null if the outputs are equal."""
    cosine: float
    """Cosine similarity of the outputs of all samples, taken as one vector."""
    max_error: NonNegativeFloat
    """Largest absolute difference."""
    sample_cosine: SampleStatistics
    """Cosine similarity of each sample's outputs."""
    sample_snr_db: SampleStatistics
    """Signal-to-noise ratio of each sample's outputs."""
    logits: LogitsComparison | None = None
    """Comparison of classes; null if the output does not consist of logits."""
    samples: tuple[ComparedSample, ...] | None = None
    """Comparison of each sample, in the order of the inputs; null unless requested."""


class ComparedSamples(Schema):
    """Comparison of one output for each sample."""

    name: str
    """Name of the output, as in the evaluation's result."""
    samples: tuple[ComparedSample, ...]
    """Comparison of each sample, in the order of the inputs."""


class EvaluationSamples(Schema):
    """Comparison of a model's outputs before and after palettization, for each sample."""

    outputs: tuple[ComparedSamples, ...]
    """Floating-point outputs, in the order of the evaluation's result."""


class MissedGoal(Schema):
    """A required quality that an output did not reach."""

    goal: str
    """Goal, such as `cosine=0.98`."""
    output: str
    """Output that did not reach it."""
    reached: float | None
    """Value that the output reached instead."""


class Evaluation(Schema):
    """Outputs of a model before and after palettization, on the same inputs."""

    samples: PositiveInt
    """Number of samples."""
    outputs: tuple[ComparedOutput, ...]
    """Floating-point outputs."""
    goals: tuple[str, ...] = ()
    """Goals, such as `cosine=0.98`."""
    missed: tuple[MissedGoal, ...] = ()
    """Goals that were not reached."""
    unreached: tuple[str, ...] = ()
    """Weights that none of the inputs reached; the evaluation says nothing about them."""
    warnings: tuple[str, ...] = ()
    """Warnings about the inputs."""

    def with_samples(self, samples: EvaluationSamples | None) -> "Evaluation":
        """Return a copy with these comparisons of samples, or without any if None."""
        by_name = {each.name: each.samples for each in samples.outputs} if samples else {}
        outputs = tuple(
            output.model_copy(update={"samples": by_name.get(output.name)})
            for output in self.outputs
        )
        return self.model_copy(update={"outputs": outputs})

    def compared_samples(self) -> EvaluationSamples | None:
        """Return the comparisons of samples in this evaluation; None if there are none."""
        outputs = tuple(
            ComparedSamples(name=output.name, samples=output.samples)
            for output in self.outputs
            if output.samples is not None
        )
        return EvaluationSamples(outputs=outputs) if outputs else None


class EvaluationProgress(Schema):
    """Progress of an evaluation."""

    samples_done: NonNegativeInt = 0
    """Samples run so far, counted for the model before and for the model after palettization."""
    samples_total: NonNegativeInt = 0
    """Samples to run; 0 until the inputs have been read."""


class EvaluationSummary(Schema):
    """Summary of the evaluation that is part of a job; the report has all of it."""

    id: str
    """Id of the evaluation."""
    inputs_id: InputsId
    """Id of the inputs, or a list of ids, as requested."""
    at_least: Quality | None = None
    """Quality that the job must reach."""
    is_reached: bool | None = None
    """Whether the quality was reached; null if it is not measured yet, or none is required."""
    samples: NonNegativeInt | None = None
    """Number of samples; null until the evaluation has succeeded."""
    cosine: SampleStatistics | None = None
    """Cosine similarity over the samples, for the output where it is least."""
    snr_db: float | None = None
    """Signal-to-noise ratio of the output where it is least; null if all outputs are equal."""


class JobEvaluation(Schema):
    """An evaluation of a job's artifact."""

    id: str
    """Id of the evaluation, ordered by time."""
    job_id: str
    """Id of the job."""
    state: EvaluationState
    """First queued, then running, then succeeded, failed or cancelled. It succeeds once it has
    measured the quality, even if that is too low."""
    inputs_id: InputsId
    """Id of the inputs, or a list of ids, as requested."""
    at_least: Quality | None = None
    """Quality to reach."""
    is_part_of_job: bool = False
    """Whether it was requested with the job, which then fails if the quality is not reached."""
    created_at: datetime
    """Time of the request."""
    ended_at: datetime | None = None
    """Time at which it ended; null until then."""
    progress: EvaluationProgress = EvaluationProgress()
    """Progress so far."""
    result: Evaluation | None = None
    """Measured quality; null until it has succeeded."""
    error: Problem | None = None
    """Reason of the failure; null if it has not failed."""
    links: dict[str, str]
    """Paths: `self` and `job`; `samples` once it has succeeded."""


class JobEvaluations(Schema):
    """All evaluations of a job's artifact, newest first."""

    items: tuple[JobEvaluation, ...]
    """The evaluations."""
