"""What happened to a job, as the API tells it."""

from datetime import datetime
from typing import Literal

from pydantic import NonNegativeInt

from palettery.schemas.base import Schema

Level = Literal["info", "warning", "error"]


class LogLine(Schema):
    """One line of a job's log."""

    at: datetime
    """When it was written."""
    level: Level
    """error: the job failed of it; warning: somebody may want to look; info: all else."""
    message: str
    """What happened, in a sentence."""
    tensor: str | None = None
    """Name of the tensor that it is about; null when it is about the job."""


class LogPage(Schema):
    """Lines of a job's log, oldest first."""

    items: tuple[LogLine, ...]
    """Lines of this page."""
    next_after: NonNegativeInt
    """Pass as `after` to get the lines that follow, now or later."""


class GoneJob(Schema):
    """A job that was deleted."""

    id: str
    """Its id."""
