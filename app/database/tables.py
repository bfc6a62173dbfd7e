"""Every table of ours. A change here needs a migration; a test compares the two."""

from datetime import datetime

from sqlalchemy import (
    CHAR,
    JSON,
    BigInteger,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Text,
    text,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column

from palettery.app.database.engine import Base, Moment
from palettery.schemas.jobs import JobState

DIGEST = CHAR(64)
"""A SHA-256 in hex."""
ID = String(36)
"""A UUID in text."""
OWNER = String(64)
"""Name of a person or team; rows are seen by their owner only."""
LABEL = String(100)
"""What somebody calls a job or a model."""


class OwnerRow(Base):
    """An owner that has had anything; its row is locked by whoever adds to what it has."""

    __tablename__ = "owners"

    name: Mapped[str] = mapped_column(OWNER, primary_key=True)
    turn: Mapped[int | None] = mapped_column(BigInteger)
    """Of the job of its that was started last."""


class JobRow(Base):
    """One job."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_state_id", "state", "id"),
        Index("ix_jobs_owner_id", "owner", "id"),
        Index("ix_jobs_owner_state_id", "owner", "state", "id"),
        Index("ix_jobs_owner_model_id", "owner", "model_id", "state", "id"),
        Index("ix_jobs_owner_queue", "owner", "state", "priority", "turn"),
        Index("ix_jobs_owner_idempotency_key", "owner", "idempotency_key", unique=True),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
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
    stored_bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Of its folder; until it has succeeded, those to be expected."""
    error: Mapped[dict[str, object] | None] = mapped_column(JSON)
    priority: Mapped[int] = mapped_column(server_default=text("5"))
    turn: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Queued jobs are served in this order."""
    deadline_at: Mapped[datetime | None] = mapped_column(Moment)
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    request_sha256: Mapped[str | None] = mapped_column(DIGEST, index=True)
    reuse: Mapped[bool] = mapped_column(server_default=true())
    tensors_reused: Mapped[int] = mapped_column(server_default=text("0"))
    expires_at: Mapped[datetime | None] = mapped_column(Moment, index=True)
    owner: Mapped[str] = mapped_column(OWNER, server_default=text("'local'"))
    model_id: Mapped[str | None] = mapped_column(DIGEST)
    model_sha256: Mapped[str | None] = mapped_column(DIGEST)
    """Of the model's bytes, whatever its files are called; null for jobs of earlier versions."""
    label: Mapped[str | None] = mapped_column(LABEL)
    config_name: Mapped[str | None] = mapped_column(String(80))
    """`name@version` if the config was named, or the preset's name."""
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    idempotency_sha256: Mapped[str | None] = mapped_column(DIGEST)
    """Of the request that the key stands for."""
    webhook_url: Mapped[str | None] = mapped_column(Text)
    last_event: Mapped[int] = mapped_column(server_default=text("0"))
    """Number of the newest event; moved with the row locked, so that numbers have no gaps."""


class JobEventRow(Base):
    """Something that happened to a job, numbered from 1."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey(JobRow.id, ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    data: Mapped[str] = mapped_column(Text)
    """JSON."""
    created_at: Mapped[datetime] = mapped_column(Moment)


class JobChangeRow(Base):
    """That a job was queued, changed its state or was deleted; it outlives the job."""

    __tablename__ = "job_changes"

    number: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True
    )
    """Taken when a transaction makes the row; another one with a smaller may end later."""
    owner: Mapped[str] = mapped_column(OWNER)
    job_id: Mapped[str] = mapped_column(ID)


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
    """The palettized form of some weights, in the artifact of a job of the same owner's."""

    __tablename__ = "results"
    __table_args__ = (
        Index("ix_results_owner_origin_key", "owner", "origin_key"),
        Index("ix_results_owner_recipe", "owner", "recipe"),
    )

    owner: Mapped[str] = mapped_column(OWNER, primary_key=True)
    content_key: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    origin_key: Mapped[str] = mapped_column(DIGEST)
    recipe: Mapped[str] = mapped_column(DIGEST)
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


class KeyRow(Base):
    """An API key; the secret itself is kept nowhere."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    owner: Mapped[str] = mapped_column(OWNER, index=True)
    name: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(16))
    """What is shown of it."""
    sha256: Mapped[str] = mapped_column(DIGEST, unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(Moment)
    expires_at: Mapped[datetime | None] = mapped_column(Moment)
    revoked_at: Mapped[datetime | None] = mapped_column(Moment)
    queued_jobs: Mapped[int | None]
    """Limits of its own, instead of the service's."""
    stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    upload_bytes: Mapped[int | None] = mapped_column(BigInteger)


class WebhookSecretRow(Base):
    """What an owner's webhooks are signed with."""

    __tablename__ = "webhook_secrets"

    owner: Mapped[str] = mapped_column(OWNER, primary_key=True)
    secret: Mapped[str] = mapped_column(String(100))


class UploadRow(Base):
    """Files that are being sent, part by part."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    owner: Mapped[str] = mapped_column(OWNER, index=True)
    files: Mapped[str] = mapped_column(Text)
    """JSON: name, size and SHA-256 of each."""
    file_count: Mapped[int] = mapped_column(server_default=text("1"))
    name: Mapped[str] = mapped_column(String(255), server_default=text("''"))
    """Of the first file."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    missing_bytes: Mapped[int] = mapped_column(BigInteger)
    """Of the files that the owner did not have, or has no more; they count until it is complete."""
    part_size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Moment)
    expires_at: Mapped[datetime] = mapped_column(Moment, index=True)
    model_id: Mapped[str | None] = mapped_column(DIGEST)
    """What it has become; null until it is complete."""
    label: Mapped[str | None] = mapped_column(LABEL)
    """Of the model that it will be."""
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    idempotency_sha256: Mapped[str | None] = mapped_column(DIGEST)

    __table_args__ = (
        Index("ix_uploads_owner_idempotency_key", "owner", "idempotency_key", unique=True),
    )


class UploadPartRow(Base):
    """A part that has come in, whole and synced."""

    __tablename__ = "upload_parts"

    upload_id: Mapped[str] = mapped_column(
        ForeignKey(UploadRow.id, ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(DIGEST)


class ModelRow(Base):
    """A model of an owner's, named by the digest of its files."""

    __tablename__ = "models"

    owner: Mapped[str] = mapped_column(OWNER, primary_key=True)
    id: Mapped[str] = mapped_column(DIGEST, primary_key=True, index=True)
    name: Mapped[str] = mapped_column(String(1024))
    label: Mapped[str | None] = mapped_column(LABEL)
    format: Mapped[str] = mapped_column(String(32))
    tensors: Mapped[int]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Moment)
    expires_at: Mapped[datetime] = mapped_column(Moment, index=True)


class ModelFileRow(Base):
    """That a model needs a file."""

    __tablename__ = "model_files"
    __table_args__ = (
        ForeignKeyConstraint(
            ["owner", "model_id"], [ModelRow.owner, ModelRow.id], ondelete="CASCADE"
        ),
    )

    owner: Mapped[str] = mapped_column(OWNER, primary_key=True)
    model_id: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(1024))
    sha256: Mapped[str] = mapped_column(ForeignKey(FileRow.sha256, ondelete="RESTRICT"), index=True)


class ConfigRow(Base):
    """One version of a named config; versions never change."""

    __tablename__ = "configs"

    owner: Mapped[str] = mapped_column(OWNER, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    document: Mapped[str] = mapped_column(Text)
    """JSON, every default filled in."""
    size_bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Of the document."""
    sha256: Mapped[str] = mapped_column(DIGEST)
    created_at: Mapped[datetime] = mapped_column(Moment)
