"""Every table of ours. A change here needs a migration; a test compares the two."""

from datetime import datetime

from sqlalchemy import CHAR, JSON, BigInteger, ForeignKey, Index, String, Text, text, true
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, Moment
from schemas.jobs import JobState

DIGEST = CHAR(64)
"""A SHA-256 in hex."""


class JobRow(Base):
    """One job."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_state_id", "state", "id"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    state: Mapped[JobState] = mapped_column(String(16))
    model_name: Mapped[str] = mapped_column(String(1024))
    created_at: Mapped[datetime] = mapped_column(Moment)
    started_at: Mapped[datetime | None] = mapped_column(Moment)
    ended_at: Mapped[datetime | None] = mapped_column(Moment)
    tensors_done: Mapped[int] = mapped_column(default=0)
    tensors_total: Mapped[int] = mapped_column(default=0)
    bytes_done: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_total: Mapped[int] = mapped_column(BigInteger, default=0)
    size_before_bytes: Mapped[int] = mapped_column(BigInteger)
    size_after_bytes: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[dict[str, object] | None] = mapped_column(JSON)
    priority: Mapped[int] = mapped_column(server_default=text("5"))
    deadline_at: Mapped[datetime | None] = mapped_column(Moment)
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    request_sha256: Mapped[str | None] = mapped_column(DIGEST, index=True)
    reuse: Mapped[bool] = mapped_column(server_default=true())
    tensors_reused: Mapped[int] = mapped_column(server_default=text("0"))
    expires_at: Mapped[datetime | None] = mapped_column(Moment, index=True)


class FileRow(Base):
    """One stored upload file; equal bytes are kept once."""

    __tablename__ = "files"

    sha256: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Moment)


class JobFileRow(Base):
    """That a job needs a file."""

    __tablename__ = "job_files"

    job_id: Mapped[str] = mapped_column(ForeignKey(JobRow.id, ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(
        ForeignKey(FileRow.sha256, ondelete="RESTRICT"), primary_key=True, index=True
    )


class ResultRow(Base):
    """The palettized form of some weights, in the artifact of a job."""

    __tablename__ = "results"

    content_key: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    origin_key: Mapped[str] = mapped_column(DIGEST, index=True)
    recipe: Mapped[str] = mapped_column(DIGEST, index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey(JobRow.id, ondelete="CASCADE"), index=True)
    stored: Mapped[str] = mapped_column(Text)
    """A `StoredSlice` as JSON."""
    created_at: Mapped[datetime] = mapped_column(Moment)


class ControllerRow(Base):
    """A process that runs jobs."""

    __tablename__ = "controllers"

    executor_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(Moment)
    workers: Mapped[int]
    version: Mapped[str] = mapped_column(String(64))
