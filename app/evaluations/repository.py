"""Rows of evaluations, each read and changed in a transaction of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import TypeAdapter
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from palettery.app.database.engine import Clock, Database, utc_now
from palettery.app.database.job_lookup import find_job, job_from_row
from palettery.app.database.tables import EvaluationRow, JobRow
from palettery.app.errors import NotFound, OverQuota
from palettery.app.files.repository import FileLocation, add_job_files
from palettery.app.keys.quota import within_limits
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.evaluation import (
    Evaluation,
    EvaluationProgress,
    EvaluationState,
    JobEvaluation,
    Quality,
)
from palettery.schemas.jobs import ENDED_STATES, Job
from palettery.schemas.keys import OwnerLimits
from palettery.schemas.problem import Problem
from palettery.schemas.uploads import InputsId, list_ids

MOST = 100
"""Most evaluations of one job."""
CANDIDATES = 5
"""Earlier evaluations whose outputs are looked for."""
_FILES = TypeAdapter(tuple[StoredFile, ...])


@dataclass(frozen=True)
class NewEvaluation:
    """An evaluation that is to be queued, or that runs."""

    id: str
    inputs_id: InputsId
    inputs: tuple[StoredFile, ...]
    """Files of the inputs."""
    at_least: Quality | None
    outputs_key: str
    """Digest of all that the outputs before palettization depend on."""
    is_part_of_job: bool = False


def add_evaluation(session: Session, new: NewEvaluation, job: JobRow | Job, at: datetime) -> None:
    """Add the row of a queued evaluation, within the session's transaction."""
    row = EvaluationRow(
        id=new.id,
        job_id=job.id,
        owner=job.owner,
        state="queued",
        is_part_of_job=new.is_part_of_job,
        inputs_id=list_ids(new.inputs_id)[0],
        inputs_ids=None if isinstance(new.inputs_id, str) else list(new.inputs_id),
        inputs=_FILES.dump_json(new.inputs).decode(),
        at_least=new.at_least and new.at_least.model_dump(mode="json"),
        outputs_key=new.outputs_key,
        created_at=at,
    )
    session.add(row)


class EvaluationRepository:
    """Reads and changes rows of evaluations."""

    def __init__(self, database: Database, now: Clock = utc_now) -> None:
        self._database, self._now = database, now

    def add(
        self,
        job: Job,
        new: NewEvaluation,
        files: Sequence[FileLocation],
        limits: OwnerLimits,
        enqueue: Callable[[Session, str, str], None],
    ) -> JobEvaluation:
        """Queue an evaluation of an ended job, which keeps the files of the inputs.

        Raises:
            FileGone: a file is no longer at its path.
            NotFound: the job was deleted meanwhile.
            OverQuota: the job has too many evaluations, or its owner too many bytes.
        """
        with (
            self._database.transaction() as session,
            within_limits(session, job.owner, limits),
        ):
            if session.get(JobRow, job.id, with_for_update=True) is None:
                raise NotFound(f"there is no job {job.id!r}; see the list of your jobs")
            own = EvaluationRow.job_id == job.id
            if (session.scalar(select(func.count()).where(own)) or 0) >= MOST:
                raise OverQuota(f"the job has {MOST} evaluations, and no more are allowed")
            now = self._now()
            add_evaluation(session, new, job, now)
            session.flush()
            add_job_files(session, job.id, files, now)
            enqueue(session, job.id, new.id)
        return self.get(job.owner, job.id, new.id)

    def job(self, owner: str, job_id: str) -> Job:
        """Return a job of an owner.

        Raises:
            NotFound: the owner has no such job.
        """
        with self._database.reading() as connection:
            return find_job(connection, job_id, owner)

    def get(self, owner: str, job_id: str, evaluation_id: str) -> JobEvaluation:
        """Return an evaluation of a job.

        Raises:
            NotFound: there is no such job or evaluation.
        """
        matching = [each for each in self.of_job(owner, job_id) if each.id == evaluation_id]
        if not matching:
            raise NotFound(
                f"the job has no evaluation {evaluation_id[:64]!r}; see the list of its evaluations"
            )
        return matching[0]

    def of_job(self, owner: str, job_id: str) -> list[JobEvaluation]:
        """Return all evaluations of a job, newest first.

        Raises:
            NotFound: the owner has no such job.
        """
        query = select(EvaluationRow).order_by(EvaluationRow.id.desc())
        job = self.job(owner, job_id)
        with self._database.transaction() as session:
            rows = session.scalars(query.where(EvaluationRow.job_id == job_id))
            return [_evaluation(row, job) for row in rows]

    def start(self, evaluation_id: str) -> tuple[Job, NewEvaluation] | None:
        """Change an evaluation to running, and return it with its job; None if it is gone."""
        with self._database.transaction() as session:
            row = session.get(EvaluationRow, evaluation_id)
            job = None if row is None else session.get(JobRow, row.job_id)
            if row is None or job is None:
                return None
            row.state, row.ended_at, row.error = "running", None, None
            new = NewEvaluation(
                id=row.id,
                inputs_id=_inputs_id(row),
                inputs=_FILES.validate_json(row.inputs),
                at_least=None if row.at_least is None else Quality.model_validate(row.at_least),
                outputs_key=row.outputs_key,
                is_part_of_job=row.is_part_of_job,
            )
            return job_from_row(job), new

    def advance(self, evaluation_id: str, progress: EvaluationProgress) -> None:
        """Store the progress of an evaluation."""
        self._change(evaluation_id, **progress.model_dump())

    def succeed(self, evaluation_id: str, result: Evaluation) -> None:
        """Store the result of an evaluation."""
        samples = {"samples_done": 2 * result.samples, "samples_total": 2 * result.samples}
        text = result.model_dump_json()
        self._end(evaluation_id, "succeeded", result=text, **samples)

    def fail(self, evaluation_id: str, problem: Problem) -> None:
        """Store why an evaluation failed."""
        self._end(evaluation_id, "failed", error=problem.model_dump(mode="json"))

    def add_stored_bytes(self, job_id: str, size_bytes: int) -> None:
        """Count more bytes of a job's folder."""
        change = update(JobRow).where(JobRow.id == job_id)
        more = change.values(stored_bytes=JobRow.stored_bytes + size_bytes)
        with self._database.transaction() as session:
            session.execute(more)

    def with_outputs(self, job: Job, outputs_key: str) -> list[str]:
        """Return other jobs of the owner that may have stored these outputs, newest first."""
        query = (
            select(EvaluationRow.job_id)
            .where(EvaluationRow.owner == job.owner, EvaluationRow.outputs_key == outputs_key)
            .where(EvaluationRow.job_id != job.id)
            .order_by(EvaluationRow.id.desc())
            .limit(CANDIDATES)
        )
        with self._database.transaction() as session:
            return list(session.scalars(query))

    def _end(self, evaluation_id: str, state: EvaluationState, **values: object) -> None:
        self._change(evaluation_id, state=state, ended_at=self._now(), **values)

    def _change(self, evaluation_id: str, **values: object) -> None:
        change = update(EvaluationRow).where(EvaluationRow.id == evaluation_id)
        with self._database.transaction() as session:
            session.execute(change.values(**values))


def _inputs_id(row: EvaluationRow) -> InputsId:
    return row.inputs_id if row.inputs_ids is None else tuple(row.inputs_ids)


def _evaluation(row: EvaluationRow, job: Job) -> JobEvaluation:
    state, ended_at, error = row.state, row.ended_at, row.error and Problem(**row.error)
    if row.is_part_of_job and ended_at is None and job.state in ENDED_STATES:
        # The job ended before its evaluation did.
        state, ended_at, error = job.state, job.ended_at, job.error
    here = f"/v1/jobs/{row.job_id}"
    own = f"{here}/evaluations/{row.id}"
    return JobEvaluation.model_validate(
        {
            "id": row.id,
            "job_id": row.job_id,
            "state": state,
            "inputs_id": _inputs_id(row),
            "at_least": row.at_least,
            "is_part_of_job": row.is_part_of_job,
            "created_at": row.created_at,
            "ended_at": ended_at,
            "progress": EvaluationProgress(
                samples_done=row.samples_done, samples_total=row.samples_total
            ),
            "result": row.result and Evaluation.model_validate_json(row.result),
            "error": error,
            "links": {"self": own, "job": here}
            | ({"samples": f"{own}/samples"} if state == "succeeded" else {}),
        }
    )
