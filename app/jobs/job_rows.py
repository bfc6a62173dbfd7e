"""Creation and changes of the row of a job."""

from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Executable, Row, bindparam, update
from sqlalchemy.orm import Session

from palettery.app.database.tables import JobRow
from palettery.app.evaluations.repository import NewEvaluation
from palettery.app.events.log_messages import LogMessage
from palettery.app.http.caller import LOCAL, UNLIMITED
from palettery.app.http.idempotency import KeyedRequest
from palettery.schemas.evaluation import EvaluationSummary
from palettery.schemas.job_options import JobOptions
from palettery.schemas.jobs import JobKind, JobState, Progress
from palettery.schemas.keys import OwnerLimits


@dataclass(frozen=True)
class NewJob:
    """A job that is to be queued."""

    id: str
    model_name: str
    size_before_bytes: int
    progress: Progress
    owner: str = LOCAL
    options: JobOptions = field(default_factory=JobOptions)
    deadline_at: datetime | None = None
    request_sha256: str | None = None
    """Digest of the request; jobs with equal digests have equal artifacts."""
    model_id: str | None = None
    model_sha256: str | None = None
    """SHA-256 of the model's bytes."""
    config_name: str | None = None
    """Name of the config that was looked up: `name@version`, or a preset."""
    stored_bytes: int = 0
    """Expected size of all that the job stores."""
    limits: OwnerLimits = UNLIMITED
    """Limits of the owner, checked with this job included."""
    request: KeyedRequest | None = None
    """The request under its Idempotency-Key, if it has one."""
    first_messages: tuple[LogMessage, ...] = ()
    """First messages of its log."""
    evaluation: NewEvaluation | None = None
    """Evaluation that the job includes."""
    kind: JobKind = "compression"


def new_row(job: NewJob, created_at: datetime) -> JobRow:
    """Return the row of a queued job."""
    target = job.options.target if job.kind == "compression" else None
    return JobRow(
        id=job.id,
        owner=job.owner,
        state="queued",
        model_name=job.model_name,
        created_at=created_at,
        size_before_bytes=job.size_before_bytes,
        stored_bytes=job.stored_bytes,
        priority=job.options.priority,
        deadline_at=job.deadline_at,
        attempt=0,
        request_sha256=job.request_sha256,
        reuse=job.options.reuse,
        model_id=job.model_id,
        model_sha256=job.model_sha256,
        label=job.options.label,
        config_name=job.config_name,
        kind=job.kind,
        target=target and target.model_dump(mode="json", exclude_none=True),
        webhook_url=job.options.webhook_url,
        idempotency_key=job.request and job.request.key,
        idempotency_sha256=job.request and job.request.sha256,
        evaluation=job.evaluation and _summary(job.evaluation),
        **job.progress.model_dump(),
    )


def _summary(new: NewEvaluation) -> dict[str, object]:
    summary = EvaluationSummary(id=new.id, inputs_id=new.inputs_id, at_least=new.at_least)
    return summary.model_dump(mode="json")


def change(
    session: Session,
    job_id: str,
    states: tuple[JobState, ...],
    attempt: int | None = None,
    **values: object,
) -> Row[Any] | None:
    """Change a row, and return it; None if it is in none of the states, or at another attempt."""
    statement = _change(states, tuple(values), of_attempt=attempt is not None)
    parameters: dict[str, object] = {"own": job_id} | {
        f"new_{name}": value for name, value in values.items()
    }
    if attempt is not None:
        parameters["at"] = attempt
    return session.connection().execute(statement, parameters).one_or_none()


@cache
def _change(
    states: tuple[JobState, ...], names: tuple[str, ...], *, of_attempt: bool
) -> Executable:
    """Return the statement, cached: building one takes longer than running it."""
    row = JobRow.__table__.c
    statement = update(JobRow).where(row.id == bindparam("own"), row.state.in_(states))
    if of_attempt:
        statement = statement.where(row.attempt == bindparam("at"))
    values = {name: bindparam(f"new_{name}", type_=row[name].type) for name in names}
    return statement.values(values).returning(JobRow.__table__)
