"""Look up a job by its id, and show its row as the API does."""

import re
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from palettery.app.database.tables import JobRow
from palettery.app.errors import NotFound
from palettery.schemas.jobs import ACTIVE_STATES, RETRYABLE_STATES, Job, Progress
from palettery.schemas.problem import Problem

ID = re.compile(r"[0-9a-f-]{36}")
"""Form of a job's id. Anything else is not looked up: some databases refuse some characters."""
_OWN = select(JobRow.__table__).where(JobRow.id == bindparam("own"))


def find_job(connection: Connection, job_id: str, owner: str | None = None) -> Job:
    """Return a job, of an owner if one is named.

    Raises:
        NotFound: there is no such job.
    """
    row = None
    if ID.fullmatch(job_id):
        row = connection.execute(_OWN, {"own": job_id}).one_or_none()
    if row is None or owner not in (None, row.owner):
        raise NotFound(f"there is no job {job_id[:64]!r}; see the list of your jobs")
    return job_from_row(row)


def job_from_row(row: JobRow | Row[Any]) -> Job:
    """Return a job as the API shows it."""
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
    if row.state in ACTIVE_STATES:
        links["cancel"] = f"{here}/cancel"
    if row.state in RETRYABLE_STATES:
        links["retry"] = f"{here}/retry"
    if row.state == "succeeded":
        links |= {
            "artifact": f"{here}/artifact",
            "report": f"{here}/report",
            "report_csv": f"{here}/report.csv",
            "report_html": f"{here}/report.html",
        }
    return links
