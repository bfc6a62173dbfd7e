"""A job's row: made for a new job, and as the API shows it."""

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Executable, Row, bindparam, update
from sqlalchemy.orm import Session

from palettery.app.database.tables import JobRow
from palettery.app.events.log_messages import Line
from palettery.app.http.caller import LOCAL, UNLIMITED
from palettery.app.http.idempotency import KeyedRequest
from palettery.schemas.jobs import Job, JobState, Progress
from palettery.schemas.keys import OwnerLimits
from palettery.schemas.problem import Problem

ID = re.compile(r"[0-9a-f-]{36}")
"""Anything else is no job's id, and some databases choke on it."""
ALIVE: tuple[JobState, ...] = ("queued", "running")
RETRIED: tuple[JobState, ...] = ("failed", "cancelled")


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
    told: tuple[Line, ...] = ()
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


def shown(row: JobRow | Row[Any]) -> Job:
    """A job as the API shows it."""
    return Job(
        id=row.id,
        owner=row.owner,
        state=row.state,
        model_name=row.model_name,
        model_id=row.model_id,
        model_sha256=row.model_sha256,
        label=row.label,
        config_name=row.config_name,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        priority=row.priority,
        deadline_at=row.deadline_at,
        attempt=row.attempt,
        reuse=row.reuse,
        expires_at=row.expires_at,
        progress=Progress(
            tensors_done=row.tensors_done,
            tensors_total=row.tensors_total,
            bytes_done=row.bytes_done,
            bytes_total=row.bytes_total,
            tensors_reused=row.tensors_reused,
        ),
        size_before_bytes=row.size_before_bytes,
        size_after_bytes=row.size_after_bytes,
        error=row.error and Problem.model_validate(row.error),
        links=_links(row),
    )


def _links(row: JobRow | Row[Any]) -> dict[str, str]:
    here = f"/v1/jobs/{row.id}"
    links = {"self": here, "config": f"{here}/config"}
    if row.model_id is not None:
        links["model"] = f"/v1/models/{row.model_id}"
    if row.state in ALIVE:
        links["cancel"] = f"{here}/cancel"
    if row.state in RETRIED:
        links["retry"] = f"{here}/retry"
    if row.state == "succeeded":
        links |= {
            "artifact": f"{here}/artifact",
            "report": f"{here}/report",
            "report_csv": f"{here}/report.csv",
            "report_html": f"{here}/report.html",
        }
    return links
