"""Lookup of a job by its id, and conversion of its row to the `Job` of the API."""

import re
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from palettery.app.database.tables import JobRow
from palettery.app.errors import NotFound
from palettery.schemas.evaluation import EvaluationSummary
from palettery.schemas.jobs import (
    ACTIVE_STATES,
    ENDED_STATES,
    LISTED_KINDS,
    RETRYABLE_STATES,
    Job,
    JobKind,
    Progress,
)
from palettery.schemas.problem import Problem
from palettery.schemas.targets import Target

ID = re.compile(r"[0-9a-f-]{36}")
"""Pattern of job ids. Other texts are not looked up: some databases fail on them."""
_JOB_BY_ID = select(JobRow.__table__).where(JobRow.id == bindparam("job_id"))


def find_job(
    connection: Connection,
    job_id: str,
    owner: str | None = None,
    kind: JobKind = "compression",
) -> Job:
    """Return a job; with an owner, only one of this owner and kind.

    Jobs that compute scores count as compressions.

    Raises:
        NotFound: there is no such job.
    """
    row = None
    if ID.fullmatch(job_id):
        row = connection.execute(_JOB_BY_ID, {"job_id": job_id}).one_or_none()
    kinds = LISTED_KINDS if kind == "compression" else (kind,)
    if row is None or (owner is not None and (owner != row.owner or row.kind not in kinds)):
        noun = "calibration" if kind == "calibration" else "job"
        raise NotFound(f"there is no {noun} {job_id[:64]!r}; see the list of your {noun}s")
    return job_from_row(row)


def job_from_row(row: JobRow | Row[Any]) -> Job:
    """Return a job as the API shows it."""
    return Job(
        id=row.id,
        owner=row.owner,
        kind=row.kind,
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
        target=row.target and Target.model_validate(row.target),
        predicted_size_bytes=row.predicted_size_bytes,
        evaluation=row.evaluation and EvaluationSummary.model_validate(row.evaluation),
        error=row.error and Problem.model_validate(row.error),
        links=_links(row),
    )


def _links(row: JobRow | Row[Any]) -> dict[str, str]:
    self_link = f"/v1/jobs/{row.id}"
    links = {"self": self_link}
    if row.kind == "compression":
        links["config"] = f"{self_link}/config"
    if row.model_id is not None:
        links["model"] = f"/v1/models/{row.model_id}"
    if row.state in ACTIVE_STATES:
        links["cancel"] = f"{self_link}/cancel"
    if row.state in RETRYABLE_STATES:
        links["retry"] = f"{self_link}/retry"
    if row.state in ENDED_STATES and row.size_after_bytes is not None:
        links |= {
            "artifact": f"{self_link}/artifact",
            "report": f"{self_link}/report",
            "report_csv": f"{self_link}/report.csv",
            "report_html": f"{self_link}/report.html",
            "evaluations": f"{self_link}/evaluations",
        }
    return links
