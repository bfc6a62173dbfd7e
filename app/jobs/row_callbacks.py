"""Types of the callbacks that the job repository calls when a job's row changes."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from palettery.app.execution.engine import WorkflowCall
from palettery.schemas.jobs import JobState

Enqueue = Callable[[Session, str, int, int], None]
"""Enqueues an attempt in a transaction: (session, job id, attempt, turn)."""
Notify = Callable[[Session, WorkflowCall], None]
"""Enqueues the call of a webhook in a transaction."""
OnEnd = Callable[[JobState, datetime | None], None]
"""Callback for the end of a job, called with its last state and its start."""
