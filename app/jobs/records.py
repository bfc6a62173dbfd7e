"""Rows of jobs. State only moves forward: queued, running, then one of the ends."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Engine,
    String,
    create_engine,
    event,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry

from app.errors import NotFound
from schemas.jobs import Job, JobState, Progress
from schemas.problem import Problem

ID = re.compile(r"[0-9a-f-]{36}")
"""Anything else is no job's id, and some databases choke on it."""
ALIVE: tuple[JobState, ...] = ("queued", "running")


class Base(DeclarativeBase):
    """Root of our tables."""


class JobRow(Base):
    """One job."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    model_name: Mapped[str] = mapped_column(String(1024))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    tensors_done: Mapped[int] = mapped_column(default=0)
    tensors_total: Mapped[int] = mapped_column(default=0)
    bytes_done: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_total: Mapped[int] = mapped_column(BigInteger, default=0)
    size_before_bytes: Mapped[int] = mapped_column(BigInteger)
    size_after_bytes: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[dict[str, object] | None] = mapped_column(JSON)


class Records:
    """Reads and writes of job rows, each in its own transaction."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        Base.metadata.create_all(self._engine)

    def add(self, job_id: str, model_name: str, size_before_bytes: int, progress: Progress) -> Job:
        """A new job, queued."""
        row = JobRow(
            id=job_id,
            state="queued",
            model_name=model_name,
            created_at=datetime.now(UTC),
            size_before_bytes=size_before_bytes,
            **progress.model_dump(),
        )
        with self._transaction() as session:
            session.add(row)
            return _job(row)

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            NotFound: there is no such job.
        """
        with self._transaction() as session:
            row = session.get(JobRow, job_id) if ID.fullmatch(job_id) else None
            if row is None:
                raise NotFound(f"there is no job {job_id[:64]!r}; GET /v1/jobs lists them")
            return _job(row)

    def page(self, limit: int, before: str | None) -> Sequence[Job]:
        """Jobs, newest first, older than the one with this id; ids are ordered by time."""
        query = select(JobRow).order_by(JobRow.id.desc()).limit(limit)
        if before is not None:
            query = query.where(JobRow.id < before)
        with self._transaction() as session:
            return [_job(row) for row in session.scalars(query)]

    def alive(self) -> Sequence[Job]:
        """Jobs that have not ended, oldest first."""
        query = select(JobRow).where(JobRow.state.in_(ALIVE)).order_by(JobRow.id)
        with self._transaction() as session:
            return [_job(row) for row in session.scalars(query)]

    def start(self, job_id: str) -> bool:
        """Queued to running; whether the job may go on (a recovered one is running already)."""
        self._move(job_id, ("queued",), state="running", started_at=datetime.now(UTC))
        return self.get(job_id).state == "running"

    def advance(self, job_id: str, progress: Progress) -> None:
        """Note the work done by a running job."""
        self._move(job_id, ("running",), **progress.model_dump())

    def succeed(self, job_id: str, size_after_bytes: int) -> bool:
        """Running to succeeded; whether that was so."""
        return self._end(job_id, "succeeded", size_after_bytes=size_after_bytes)

    def fail(self, job_id: str, problem: Problem) -> bool:
        """Queued or running to failed; whether that was so."""
        return self._end(job_id, "failed", error=json.loads(problem.model_dump_json()))

    def cancel(self, job_id: str) -> bool:
        """Queued or running to cancelled; whether that was so."""
        return self._end(job_id, "cancelled")

    def is_reachable(self) -> bool:
        """Whether the database answers."""
        try:
            with self._engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            return False
        return True

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _end(self, job_id: str, state: JobState, **values: object) -> bool:
        return self._move(job_id, ALIVE, state=state, ended_at=datetime.now(UTC), **values)

    def _move(self, job_id: str, states: Sequence[JobState], **values: object) -> bool:
        """Change a row, provided it is in one of the states still."""
        change = update(JobRow).where(JobRow.id == job_id, JobRow.state.in_(states)).values(values)
        with self._transaction() as session:
            return session.connection().execute(change).rowcount == 1

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session


def _engine(url: str) -> Engine:
    address = make_url(url)
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+psycopg")  # the driver that DBOS brings
    engine = create_engine(address, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _(connection: ConnectionPoolEntry, _: object) -> None:
            cursor = connection.cursor()  # type: ignore[attr-defined]
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA busy_timeout=10000")
            cursor.close()

    return engine


def _job(row: JobRow) -> Job:
    here = f"/v1/jobs/{row.id}"
    links = {"self": here}
    if row.state in ALIVE:
        links["cancel"] = f"{here}/cancel"
    if row.state == "succeeded":
        links |= {"artifact": f"{here}/artifact", "report": f"{here}/report"}
    return Job(
        id=row.id,
        state=row.state,
        model_name=row.model_name,
        created_at=_utc(row.created_at),
        started_at=row.started_at and _utc(row.started_at),
        ended_at=row.ended_at and _utc(row.ended_at),
        progress=Progress(
            tensors_done=row.tensors_done,
            tensors_total=row.tensors_total,
            bytes_done=row.bytes_done,
            bytes_total=row.bytes_total,
        ),
        size_before_bytes=row.size_before_bytes,
        size_after_bytes=row.size_after_bytes,
        error=row.error and Problem.model_validate(row.error),
        links=links,
    )


def _utc(moment: datetime) -> datetime:
    """SQLite forgets the zone; what we wrote was UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
