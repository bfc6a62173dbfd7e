"""Priority, deadline, retry and retention of jobs; deduplicated files; the result cache."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

MOMENT = sa.DateTime(timezone=True)
DIGEST = sa.CHAR(64)
JOB = sa.String(36)


def upgrade() -> None:
    """Add columns of jobs, and create the tables of files and results."""
    for column in (
        sa.Column("priority", sa.Integer, nullable=False, server_default=sa.text("5")),
        sa.Column("deadline_at", MOMENT),
        sa.Column("attempt", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("request_sha256", DIGEST),
        sa.Column("reuse", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("tensors_reused", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("expires_at", MOMENT),
    ):
        op.add_column("jobs", column)
    op.drop_index("ix_jobs_state", "jobs")  # the index on state and id does its work
    op.create_index("ix_jobs_state_id", "jobs", ["state", "id"])
    op.create_index("ix_jobs_request_sha256", "jobs", ["request_sha256"])
    op.create_index("ix_jobs_expires_at", "jobs", ["expires_at"])
    _create_files()
    _create_results()
    _create_controllers()


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("sha256", DIGEST, primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
    )
    op.create_table(
        "job_files",
        sa.Column("job_id", JOB, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column(
            "sha256",
            DIGEST,
            sa.ForeignKey("files.sha256", ondelete="RESTRICT"),
            primary_key=True,
            index=True,
        ),
    )


def _create_results() -> None:
    op.create_table(
        "results",
        sa.Column("content_key", DIGEST, primary_key=True),
        sa.Column("origin_key", DIGEST, nullable=False, index=True),
        sa.Column("recipe", DIGEST, nullable=False, index=True),
        sa.Column(
            "job_id",
            JOB,
            sa.ForeignKey("jobs.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("stored", sa.Text, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
    )


def _create_controllers() -> None:
    op.create_table(
        "controllers",
        sa.Column("executor_id", sa.String(64), primary_key=True),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.Column("workers", sa.Integer, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
    )
