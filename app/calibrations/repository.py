"""Rows of calibrations: each has a job's row, for its state, and one for what it is of."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, select, update
from sqlalchemy.orm import Session

from palettery.app.database.engine import Database
from palettery.app.database.job_lookup import find_job, job_from_row
from palettery.app.database.tables import CalibrationRow, JobRow
from palettery.app.errors import NotFound
from palettery.schemas.calibration import CalibrationSummary
from palettery.schemas.calibration_jobs import CalibrationJob, CalibrationProgress, NewCalibration
from palettery.schemas.jobs import ACTIVE_STATES, RETRYABLE_STATES, Job, JobState, Progress

JOBS, CALIBRATIONS = JobRow.__table__, CalibrationRow.__table__
REUSED_STATES: tuple[JobState, ...] = (*ACTIVE_STATES, "succeeded")
"""States in which a calibration answers the same request again."""
_ALL = select(JOBS, CALIBRATIONS.c.request, CALIBRATIONS.c.result).join_from(
    JOBS, CALIBRATIONS, JOBS.c.id == CALIBRATIONS.c.job_id
)
_ONE = _ALL.where(JOBS.c.id == bindparam("own"))
_SAME = (
    select(JOBS.c.id)
    .where(JOBS.c.owner == bindparam("by"), JOBS.c.request_sha256 == bindparam("sha256"))
    .where(JOBS.c.kind == "calibration", JOBS.c.state.in_(REUSED_STATES))
    .order_by(JOBS.c.id.desc())
    .limit(1)
)


class CalibrationRepository:
    """Reads and writes of rows of calibrations, each in its own transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, owner: str, calibration_id: str) -> CalibrationJob:
        """Return a calibration of an owner.

        Raises:
            NotFound: there is no such calibration.
        """
        with self._database.reading() as connection:
            find_job(connection, calibration_id, owner, "calibration")
            row = connection.execute(_ONE, {"own": calibration_id}).one_or_none()
        if row is None:
            raise NotFound(f"there is no calibration {calibration_id!r}; it was deleted just now")
        return _calibration(row)

    def page(self, owner: str, limit: int, before: str | None) -> Sequence[CalibrationJob]:
        """Return an owner's calibrations, newest first, older than the one with this id."""
        query = _ALL.where(JOBS.c.owner == owner).order_by(JOBS.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(JOBS.c.id < before)
        with self._database.reading() as connection:
            return [_calibration(row) for row in connection.execute(query)]

    def same(self, owner: str, request_sha256: str, keep_until: datetime) -> str | None:
        """Return the id of an owner's newest calibration of the same content, and keep it longer.

        One that has failed or was cancelled does not count.
        """
        with self._database.transaction() as session:
            parameters = {"by": owner, "sha256": request_sha256}
            existing: str | None = session.connection().scalar(_SAME, parameters)
            if existing is not None:
                later = update(JobRow).where(JobRow.id == existing, JobRow.expires_at < keep_until)
                session.connection().execute(later.values(expires_at=keep_until))
            return existing

    def finish(self, calibration_id: str, summary: CalibrationSummary) -> None:
        """Store what a calibration found, before it is recorded as succeeded."""
        change = update(CalibrationRow).where(CalibrationRow.job_id == calibration_id)
        with self._database.transaction() as session:
            session.connection().execute(change.values(result=summary.model_dump_json()))


def add_calibration(session: Session, calibration_id: str, request: NewCalibration) -> None:
    """Store what a calibration is of, within the transaction that adds its job's row."""
    row = CalibrationRow(job_id=calibration_id, request=request.model_dump_json())
    session.add(row)


def in_state(calibration: CalibrationJob, job: Job) -> CalibrationJob:
    """Return a calibration in the state of its job at some time."""
    here = f"/v1/calibrations/{job.id}"
    links = {"self": here, "events": f"{here}/events", "model": f"/v1/models/{job.model_id}"}
    if job.state in ACTIVE_STATES:
        links["cancel"] = f"{here}/cancel"
    if job.state in RETRYABLE_STATES:
        links["retry"] = f"{here}/retry"
    if job.state == "succeeded":
        files = ("sensitivities", "second_moments", "report")
        links |= {name: f"{here}/{name}" for name in files}
    return calibration.model_copy(
        update={
            "state": job.state,
            "started_at": job.started_at,
            "ended_at": job.ended_at,
            "attempt": job.attempt,
            "expires_at": job.expires_at,
            "progress": progress_of(job.progress),
            "result": calibration.result if job.state == "succeeded" else None,
            "error": job.error and job.error.model_copy(update={"instance": here}),
            "links": links,
        }
    )


def progress_of(progress: Progress) -> CalibrationProgress:
    """Return the progress of a calibration, whose job counts samples for tensors."""
    return CalibrationProgress(
        samples_done=progress.tensors_done, samples_total=progress.tensors_total
    )


def _calibration(row: Row[Any]) -> CalibrationJob:
    request, job = NewCalibration.model_validate_json(row.request), job_from_row(row)
    calibration = CalibrationJob(
        id=job.id,
        state=job.state,
        owner=job.owner,
        model_id=request.model_id,
        model_name=job.model_name,
        inputs_ids=request.inputs(),
        options=request.options(),
        created_at=job.created_at,
        result=row.result and CalibrationSummary.model_validate_json(row.result),
        links={},
    )
    return in_state(calibration, job)
