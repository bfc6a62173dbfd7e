"""Jobs as the API shows them."""

from datetime import datetime
from typing import Literal

from pydantic import NonNegativeInt

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


class Job(Schema):
    """One compression job."""

    id: str
    """Names the job in every path."""
    state: JobState
    """queued, then running, then one of succeeded, failed and cancelled."""
    model_name: str
    """Name of the first uploaded file."""
    created_at: datetime
    """When it was submitted."""
    started_at: datetime | None = None
    """When a worker took it up; null while it is queued."""
    ended_at: datetime | None = None
    """When it reached its last state; null until then."""
    progress: Progress = Progress()
    """Work done so far."""
    size_before_bytes: NonNegativeInt
    """Bytes of all tensors of the model."""
    size_after_bytes: NonNegativeInt | None = None
    """Bytes of the artifact; None until the job succeeded."""
    error: Problem | None = None
    """Why it failed."""
    links: dict[str, str]
    """`self`, `cancel`; and once there: `artifact`, `report`."""


class JobPage(Schema):
    """One page of jobs, newest first."""

    items: tuple[Job, ...]
    """Jobs of this page."""
    next_cursor: str | None = None
    """Pass as `cursor` to get the next page; None on the last."""
