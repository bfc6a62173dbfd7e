"""Make and change the row of a job."""

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Executable, Row, bindparam, update
from sqlalchemy.orm import Session

from palettery.app.database.tables import JobRow
from palettery.app.events.log_messages import LogMessage
from palettery.app.http.caller import LOCAL, UNLIMITED
from palettery.app.http.idempotency import KeyedRequest
from palettery.schemas.jobs import JobState, Progress
from palettery.schemas.keys import OwnerLimits

ID = re.compile(r"[0-9a-f-]{36}")
"""Anything else is no job's id, and some databases choke on it."""


@dataclass(frozen=True)
class NewJob:
    """What is known of a job when it is queued."""

    id: str
    model_name: str
    size_before_bytes: int
    progress: Progress
    owner: str = LOCAL
    priority: int = 5
    deadline_at: datetime | None = None
    request_sha256: str | None = None
    """Equal ones give equal artifacts."""
    reuse: bool = True
    model_id: str | None = None
    model_sha256: str | None = None
    """Of the model's bytes."""
    label: str | None = None
    config_name: str | None = None
    """`name@version`."""
    webhook_url: str | None = None
    stored_bytes: int = 0
    """To be expected, of all that it stores."""
    limits: OwnerLimits = UNLIMITED
    """The most that its owner may have, with it."""
    keyed: KeyedRequest | None = None
    """The Idempotency-Key that it was asked for with."""
    told: tuple[LogMessage, ...] = ()
    """What its log begins with."""


def new_row(job: NewJob, created_at: datetime) -> JobRow:
    """The row of a job that is queued."""
    return JobRow(
        id=job.id,
        owner=job.owner,
        state="queued",
        model_name=job.model_name,
        created_at=created_at,
        size_before_bytes=job.size_before_bytes,
        stored_bytes=job.stored_bytes,
        priority=job.priority,
        deadline_at=job.deadline_at,
        attempt=0,
        request_sha256=job.request_sha256,
        reuse=job.reuse,
        model_id=job.model_id,
        model_sha256=job.model_sha256,
        label=job.label,
        config_name=job.config_name,
        webhook_url=job.webhook_url,
        idempotency_key=job.keyed and job.keyed.key,
        idempotency_sha256=job.keyed and job.keyed.sha256,
        **job.progress.model_dump(),
    )


def change(
    session: Session,
    job_id: str,
    states: tuple[JobState, ...],
    attempt: int | None = None,
    **values: object,
) -> Row[Any] | None:
    """Change a row; as it is then, None if it is in none of the states, or at another attempt."""
    made = _change(states, tuple(values), of_attempt=attempt is not None)
    given: dict[str, object] = {"own": job_id} | {
        f"new_{name}": value for name, value in values.items()
    }
    if attempt is not None:
        given["at"] = attempt
    return session.connection().execute(made, given).one_or_none()


@cache
def _change(
    states: tuple[JobState, ...], names: tuple[str, ...], *, of_attempt: bool
) -> Executable:
    """A statement that is made once: to put one together takes longer than to run it."""
    row = JobRow.__table__.c
    found = update(JobRow).where(row.id == bindparam("own"), row.state.in_(states))
    if of_attempt:
        found = found.where(row.attempt == bindparam("at"))
    values = {name: bindparam(f"new_{name}", type_=row[name].type) for name in names}
    return found.values(values).returning(JobRow.__table__)
