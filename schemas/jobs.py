"""Jobs as the API shows them."""

from datetime import datetime
from typing import Literal

from pydantic import Field, NonNegativeInt

from schemas.base import Schema
from schemas.problem import Problem

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled"})


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
    config_name: str | None = None
    """`name@version` of its config; null when that had no name."""
    created_at: datetime
    """When it was submitted."""
    started_at: datetime | None = None
    """When a worker took it up; null while it is queued."""
    ended_at: datetime | None = None
    """When it reached its last state; null until then."""
    priority: int = Field(default=5, ge=0, le=9)
    """A job of a higher priority goes first."""
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
    """`self`, maybe `model`; `cancel` until it ends; then `artifact`, `report` and `report_csv`, or
    `retry`."""


class JobPage(Schema):
    """One page of jobs, newest first."""

    items: tuple[Job, ...]
    """Jobs of this page."""
    next_cursor: str | None = None
    """Pass as `cursor` to get the next page; None on the last."""
