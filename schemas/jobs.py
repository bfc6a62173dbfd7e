"""Jobs, and requests for them."""

from datetime import datetime
from typing import Literal

from pydantic import Field, NonNegativeInt

from palettery.schemas.base import Schema
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.evaluation import EvaluationSummary
from palettery.schemas.job_options import JobOptions
from palettery.schemas.problem import Problem
from palettery.schemas.targets import Target

JobKind = Literal["compression", "scores", "calibration"]
LISTED_KINDS: tuple[JobKind, ...] = ("compression", "scores")
"""Kinds that the API shows as jobs; calibrations are a resource of their own."""
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ACTIVE_STATES: tuple[JobState, ...] = ("queued", "running")
RETRYABLE_STATES: tuple[JobState, ...] = ("failed", "cancelled")
ENDED_STATES: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled"})


class JobSubmission(JobOptions):
    """A job or a plan of a model that was uploaded before.

    Exactly one of `config`, `config_name` and `preset` is given, or with a target at most one.
    """

    model_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Id of the model."""
    sensitivities_id: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Id of a model whose tensors weight the errors; null: all weights count alike."""
    config: KMeansPalettizerConfig | None = None
    """The config, in this form or in that of coreai-opt's files."""


class Progress(Schema):
    """Progress of a job."""

    tensors_done: NonNegativeInt = 0
    """Tensors palettized so far."""
    tensors_total: NonNegativeInt = 0
    """Tensors to palettize."""
    bytes_done: NonNegativeInt = 0
    """Size of the palettized tensors before compression."""
    bytes_total: NonNegativeInt = 0
    """Size of all tensors to palettize before compression."""
    tensors_reused: NonNegativeInt = 0
    """Tensors done by reusing a result of an earlier job."""


class Job(Schema):
    """One compression job."""

    id: str
    """Id of the job, ordered by time."""
    kind: JobKind = Field(default="compression", exclude_if=lambda kind: kind != "scores")
    """`scores` for a job that only computes the scores that targets of a model need, without an
    artifact; absent for other jobs."""
    state: JobState
    """First queued, then running, then succeeded, failed or cancelled."""
    owner: str
    """Owner of the job."""
    model_name: str
    """Name of the first uploaded file."""
    model_id: str | None = None
    """Id of its model; null if the model was uploaded with the request."""
    model_sha256: str | None = None
    """SHA-256 of the model's bytes: equal for byte-identical models, however they were uploaded
    and whatever their files are called; null for jobs of earlier versions."""
    label: str | None = None
    """Name that its owner gave it."""
    config_name: str | None = None
    """`name@version` of its config, or its preset; null if the request contained the config."""
    created_at: datetime
    """Time of submission."""
    started_at: datetime | None = None
    """Start of the current attempt; null while it is queued."""
    ended_at: datetime | None = None
    """Time at which it succeeded, failed or was cancelled; null until then."""
    priority: int = Field(default=5, ge=0, le=9)
    """Jobs of a higher priority run before the other jobs of their owner; owners take turns."""
    deadline_at: datetime | None = None
    """Time at which it fails if it has not ended; null for no deadline."""
    attempt: NonNegativeInt = 0
    """Number of retries."""
    reuse: bool = True
    """Whether results of earlier jobs are reused."""
    expires_at: datetime | None = None
    """Time at which it is deleted with its artifact; null for never, or until it has ended."""
    progress: Progress = Progress()
    """Progress of the current attempt."""
    size_before_bytes: NonNegativeInt
    """Size of all tensors of the model."""
    size_after_bytes: NonNegativeInt | None = None
    """Size of the artifact; null until the job has succeeded, or failed with the code
    `quality_not_reached`: then the artifact can be downloaded, too."""
    target: Target | None = None
    """Size or error to reach; null if the config alone determines the bits of every tensor."""
    predicted_size_bytes: NonNegativeInt | None = None
    """Predicted size of the artifact with the config chosen for the target; null without a target,
    and until the config is chosen."""
    evaluation: EvaluationSummary | None = None
    """Evaluation that was requested with the job; null if there is none."""
    error: Problem | None = None
    """Reason of the failure; null if it has not failed."""
    links: dict[str, str]
    """Paths: `self` and `config`; `model` if it has an id; `cancel` until the job has ended; then
    `artifact`, `report`, `report_csv`, `report_html` and `evaluations` if it has an artifact, and
    `retry` if it has not succeeded."""

    @property
    def has_artifact(self) -> bool:
        """Whether its artifact and report can be downloaded."""
        return self.state in ENDED_STATES and self.size_after_bytes is not None


class JobPage(Schema):
    """One page of jobs, newest first."""

    items: tuple[Job, ...]
    """Jobs of this page."""
    next_cursor: str | None = None
    """Value of `cursor` for the next page; null on the last."""
