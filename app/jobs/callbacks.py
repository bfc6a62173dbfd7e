"""What others have done when a job's row changes."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from palettery.app.execution.engine import WorkflowCall
from palettery.schemas.jobs import JobState

Enqueue = Callable[[Session, str, int, int], None]
"""Has the engine start an attempt, within a transaction: (session, job id, attempt, turn)."""
Notify = Callable[[Session, WorkflowCall], None]
"""Has the engine call a webhook, within a transaction."""
OnEnd = Callable[[JobState, datetime | None], None]
"""Told of every end of a job: how it ended, and when it had begun."""
