"""Log lines and deletions of jobs."""

from datetime import datetime
from typing import Literal

from pydantic import NonNegativeInt

from palettery.schemas.base import Schema

Level = Literal["info", "warning", "error"]


class LogLine(Schema):
    """One line of a job's log."""

    at: datetime
    """Time at which the line was written, in UTC."""
    level: Level
    """Severity: `error` if the job failed because of it, `warning`, or `info`."""
    message: str
    """Message, one sentence."""
    tensor: str | None = None
    """Name of the tensor that the message is about; null if it is about the job."""


class LogPage(Schema):
    """Lines of a job's log, oldest first."""

    items: tuple[LogLine, ...]
    """Lines of this page."""
    next_after: NonNegativeInt
    """Value of the `after` parameter for the next page, or for lines that are written later."""


class DeletedJob(Schema):
    """A deleted job."""

    id: str
    """Id of the job."""
