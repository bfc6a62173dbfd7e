"""Jobs as the API shows them."""

from datetime import datetime
from typing import Literal

from pydantic import Field, NonNegativeInt

from palettery.schemas.base import Schema
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.job_options import JobOptions
from palettery.schemas.problem import Problem

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ACTIVE_STATES: tuple[JobState, ...] = ("queued", "running")
RETRYABLE_STATES: tuple[JobState, ...] = ("failed", "cancelled")
ENDED: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled"})


class JobSubmission(JobOptions):
    """A job or a plan of a model that was uploaded before.

    Exactly one of `config`, `config_name` and `preset` is given.
    """

    model_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    """The model."""
    sensitivities_id: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """A model whose tensors weight the error of each weight; null: all weights count alike."""
    config: KMeansPalettizerConfig | None = None
    """The config, in this form or in that of coreai-opt's files."""


class Progress(Schema):
    """Work done, of the work planned."""

    tensors_done: NonNegativeInt = 0
    """Tensors palettized so far."""
    tensors_total: NonNegativeInt = 0
    """Tensors to palettize."""
    bytes_done: NonNegativeInt = 0
    """Their bytes before compression, so far."""
    bytes_total: NonNegativeInt = 0
    """Their bytes before compression."""
    tensors_reused: NonNegativeInt = 0
    """Tensors done whose result another job had computed already."""


class Job(Schema):
    """One compression job."""

    id: str
    """Names the job in every path."""
    state: JobState
    """queued, then running, then one of succeeded, failed and cancelled."""
    owner: str
    """Whose it is."""
    model_name: str
    """Name of the first uploaded file."""
    model_id: str | None = None
    """The model that it was made of; null when it came with the request."""
    model_sha256: str | None = None
    """SHA-256 of the model's bytes: equal for byte-identical models, however they were uploaded
    and whatever their files are called; null for jobs of earlier versions."""
    label: str | None = None
    """What its owner calls it."""
    config_name: str | None = None
    """`name@version` of its config, or the name of its preset; null when it was written out."""
    created_at: datetime
    """When it was submitted."""
    started_at: datetime | None = None
    """When a worker took it up; null while it is queued."""
    ended_at: datetime | None = None
    """When it reached its last state; null until then."""
    priority: int = Field(default=5, ge=0, le=9)
    """Of an owner's jobs, one of a higher priority goes first; owners take turns."""
    deadline_at: datetime | None = None
    """When it is given up if it has not ended; null for never."""
    attempt: NonNegativeInt = 0
    """Times it was retried."""
    reuse: bool = True
    """Whether results of earlier jobs are taken where they are the same."""
    expires_at: datetime | None = None
    """When, once it has ended, it is removed with its artifact; null for never."""
    progress: Progress = Progress()
    """Work done so far."""
    size_before_bytes: NonNegativeInt
    """Bytes of all tensors of the model."""
    size_after_bytes: NonNegativeInt | None = None
    """Bytes of the artifact; None until the job succeeded."""
    error: Problem | None = None
    """Why it failed."""
    links: dict[str, str]
    """`self` and `config`, maybe `model`; `cancel` until it ends; then `artifact`, `report`,
    `report_csv` and `report_html`, or `retry`."""


class JobPage(Schema):
    """One page of jobs, newest first."""

    items: tuple[Job, ...]
    """Jobs of this page."""
    next_cursor: str | None = None
    """Pass as `cursor` to get the next page; None on the last."""
