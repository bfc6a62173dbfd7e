"""Tables of the database. A change needs a migration; a test compares the two."""

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

from palettery.app.database.engine import Base, UtcDateTime
from palettery.schemas.jobs import JobKind, JobState

DIGEST = CHAR(64)
"""Type of a SHA-256 in hex."""
ID = String(36)
"""Type of a UUID as text."""
OWNER = String(64)
"""Type of an owner's name: a person or team. Rows are visible to their owner only."""
LABEL = String(100)
"""Type of a label that a user gives to a job or a model."""


class OwnerRow(Base):
    """An owner; transactions that use its quota lock its row."""

    __tablename__ = "owners"

    name: Mapped[str] = mapped_column(OWNER, primary_key=True)
    turn: Mapped[int | None] = mapped_column(BigInteger)
    """Turn of the owner's job that was started last."""


class JobRow(Base):
    """A job; a calibration is a job of another `kind`."""

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
    kind: Mapped[JobKind] = mapped_column(String(16), server_default=text("'compression'"))
    state: Mapped[JobState] = mapped_column(String(16))
    model_name: Mapped[str] = mapped_column(String(1024))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    tensors_done: Mapped[int] = mapped_column(default=0)
    tensors_total: Mapped[int] = mapped_column(default=0)
    bytes_done: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_total: Mapped[int] = mapped_column(BigInteger, default=0)
    size_before_bytes: Mapped[int] = mapped_column(BigInteger)
    size_after_bytes: Mapped[int | None] = mapped_column(BigInteger)
    stored_bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Bytes of the job's folder; an estimate until the job has succeeded."""
    error: Mapped[dict[str, object] | None] = mapped_column(JSON)
    evaluation: Mapped[dict[str, object] | None] = mapped_column(JSON)
    """An `EvaluationSummary`; null if the job asked for no evaluation."""
    priority: Mapped[int] = mapped_column(server_default=text("5"))
    turn: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Position in the queue; lower turns start first."""
    deadline_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    request_sha256: Mapped[str | None] = mapped_column(DIGEST, index=True)
    reuse: Mapped[bool] = mapped_column(server_default=true())
    tensors_reused: Mapped[int] = mapped_column(server_default=text("0"))
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    owner: Mapped[str] = mapped_column(OWNER, server_default=text("'local'"))
    model_id: Mapped[str | None] = mapped_column(DIGEST)
    model_sha256: Mapped[str | None] = mapped_column(DIGEST)
    """SHA-256 of the model's bytes, independent of file names; null for jobs of old versions."""
    label: Mapped[str | None] = mapped_column(LABEL)
    config_name: Mapped[str | None] = mapped_column(String(80))
    """`name@version` of a named config, or the preset's name."""
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    idempotency_sha256: Mapped[str | None] = mapped_column(DIGEST)
    """SHA-256 of the request that had the key."""
    webhook_url: Mapped[str | None] = mapped_column(Text)
    target: Mapped[dict[str, object] | None] = mapped_column(JSON(none_as_null=True))
    predicted_size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Size of the artifact by the config that was chosen for the target; null until then."""
    last_event: Mapped[int] = mapped_column(server_default=text("0"))
    """Number of the newest event; changed while the row is locked, so that there are no gaps."""


class EvaluationRow(Base):
    """An evaluation of a job's artifact."""

    __tablename__ = "evaluations"
    __table_args__ = (Index("ix_evaluations_owner_outputs_key", "owner", "outputs_key"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey(JobRow.id, ondelete="CASCADE"), index=True)
    owner: Mapped[str] = mapped_column(OWNER)
    state: Mapped[str] = mapped_column(String(16))
    is_part_of_job: Mapped[bool]
    inputs_id: Mapped[str] = mapped_column(DIGEST)
    """Id of the inputs, or the first of several."""
    inputs_ids: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    """Ids of the inputs; null if the request has one."""
    inputs: Mapped[str] = mapped_column(Text)
    """Files of the inputs, as JSON."""
    at_least: Mapped[dict[str, object] | None] = mapped_column(JSON)
    outputs_key: Mapped[str] = mapped_column(DIGEST)
    """Digest of everything that the outputs before palettization depend on."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    samples_done: Mapped[int] = mapped_column(default=0)
    samples_total: Mapped[int] = mapped_column(default=0)
    result: Mapped[str | None] = mapped_column(Text)
    """An `Evaluation` as JSON."""
    error: Mapped[dict[str, object] | None] = mapped_column(JSON)


class CalibrationRow(Base):
    """Request and result of a calibration; its state is in the job's row of the same id."""

    __tablename__ = "calibrations"

    job_id: Mapped[str] = mapped_column(ForeignKey(JobRow.id, ondelete="CASCADE"), primary_key=True)
    request: Mapped[str] = mapped_column(Text)
    """A `NewCalibration` as JSON."""
    result: Mapped[str | None] = mapped_column(Text)
    """A `CalibrationSummary` as JSON; null until it has succeeded."""


class JobEventRow(Base):
    """An event of a job, numbered from 1."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey(JobRow.id, ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    data: Mapped[str] = mapped_column(Text)
    """The event's payload as JSON."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class JobChangeRow(Base):
    """A change of a job's state, or its creation or deletion; the row outlives the job."""

    __tablename__ = "job_changes"

    number: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True
    )
    """Assigned on insert; a transaction with a smaller number may commit later."""
    owner: Mapped[str] = mapped_column(OWNER)
    job_id: Mapped[str] = mapped_column(ID)


class FileRow(Base):
    """A stored file of an upload; identical files are stored once."""

    __tablename__ = "files"

    sha256: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class JobFileRow(Base):
    """A job's reference to a file."""

    __tablename__ = "job_files"

    job_id: Mapped[str] = mapped_column(ForeignKey(JobRow.id, ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(
        ForeignKey(FileRow.sha256, ondelete="RESTRICT"), primary_key=True, index=True
    )


class ResultRow(Base):
    """Palettized weights in the artifact of a job, for reuse by jobs of the same owner."""

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
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ControllerRow(Base):
    """A process that runs jobs, with its last heartbeat."""

    __tablename__ = "controllers"

    executor_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
    workers: Mapped[int]
    version: Mapped[str] = mapped_column(String(64))


class KeyRow(Base):
    """An API key, without its secret."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    owner: Mapped[str] = mapped_column(OWNER, index=True)
    name: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(16))
    """First characters of the secret, shown in lists."""
    sha256: Mapped[str] = mapped_column(DIGEST, unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    queued_jobs: Mapped[int | None]
    """Limit that overrides that of the service, like the following two."""
    stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    upload_bytes: Mapped[int | None] = mapped_column(BigInteger)


class WebhookSecretRow(Base):
    """The secret that signs an owner's webhooks."""

    __tablename__ = "webhook_secrets"

    owner: Mapped[str] = mapped_column(OWNER, primary_key=True)
    secret: Mapped[str] = mapped_column(String(100))


class UploadRow(Base):
    """An upload of files in parts."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    owner: Mapped[str] = mapped_column(OWNER, index=True)
    files: Mapped[str] = mapped_column(Text)
    """Name, size and SHA-256 of each file, as JSON."""
    file_count: Mapped[int] = mapped_column(server_default=text("1"))
    name: Mapped[str] = mapped_column(String(255), server_default=text("''"))
    """Name of the first file."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    missing_bytes: Mapped[int] = mapped_column(BigInteger)
    """Bytes that the owner did not have yet; they count towards its quota until completion."""
    part_size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    model_id: Mapped[str | None] = mapped_column(DIGEST)
    """The model of a complete upload; null before."""
    label: Mapped[str | None] = mapped_column(LABEL)
    """Label for the model."""
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    idempotency_sha256: Mapped[str | None] = mapped_column(DIGEST)

    __table_args__ = (
        Index("ix_uploads_owner_idempotency_key", "owner", "idempotency_key", unique=True),
    )


class UploadPartRow(Base):
    """A part that was received completely and synced to disk."""

    __tablename__ = "upload_parts"

    upload_id: Mapped[str] = mapped_column(
        ForeignKey(UploadRow.id, ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(DIGEST)


class ModelRow(Base):
    """A model of an owner; its id is the digest of its files."""

    __tablename__ = "models"

    owner: Mapped[str] = mapped_column(OWNER, primary_key=True)
    id: Mapped[str] = mapped_column(DIGEST, primary_key=True, index=True)
    name: Mapped[str] = mapped_column(String(1024))
    label: Mapped[str | None] = mapped_column(LABEL)
    format: Mapped[str] = mapped_column(String(32))
    tensors: Mapped[int]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class ModelFileRow(Base):
    """A model's reference to a file."""

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
    """A version of a named config; versions are immutable."""

    __tablename__ = "configs"

    owner: Mapped[str] = mapped_column(OWNER, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    document: Mapped[str] = mapped_column(Text)
    """The config as JSON, with all defaults filled in."""
    size_bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Size of the document."""
    sha256: Mapped[str] = mapped_column(DIGEST)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
