"""Owners and their keys, models, uploads in parts, named configs, events of jobs.

Results are reused within one owner; results from before this revision belong to the owner `local`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

MOMENT = sa.DateTime(timezone=True)
DIGEST = sa.CHAR(64)
ID = sa.String(36)
OWNER = sa.String(64)


def upgrade() -> None:
    """Add columns of jobs, and create the other tables of owners."""
    for column in (
        sa.Column("owner", OWNER, nullable=False, server_default=sa.text("'local'")),
        sa.Column("model_id", DIGEST),
        sa.Column("config_name", sa.String(80)),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("idempotency_sha256", DIGEST),
        sa.Column("webhook_url", sa.Text),
        sa.Column("last_event", sa.Integer, nullable=False, server_default=sa.text("0")),
    ):
        op.add_column("jobs", column)
    op.create_index("ix_jobs_owner_id", "jobs", ["owner", "id"])
    op.create_index("ix_jobs_owner_state", "jobs", ["owner", "state"])
    _create_unique_key("jobs")
    op.create_table("owners", sa.Column("name", OWNER, primary_key=True))
    op.create_table(
        "job_events",
        sa.Column("job_id", ID, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
    )
    _give_results_owners()
    _create_keys()
    _create_uploads()
    _create_models()
    op.create_table(
        "configs",
        sa.Column("owner", OWNER, primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("sha256", DIGEST, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
    )


def _give_results_owners() -> None:
    """Put the owner first in the primary key, for which SQLite needs a new table."""
    for column in ("origin_key", "recipe", "job_id"):
        op.drop_index(f"ix_results_{column}", "results")
    op.rename_table("results", "results_before")
    op.create_table(
        "results",
        sa.Column("owner", OWNER, primary_key=True),
        sa.Column("content_key", DIGEST, primary_key=True),
        sa.Column("origin_key", DIGEST, nullable=False),
        sa.Column("recipe", DIGEST, nullable=False),
        sa.Column(
            "job_id", ID, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("stored", sa.Text, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
    )
    for column in ("origin_key", "recipe"):
        op.create_index(f"ix_results_owner_{column}", "results", ["owner", column])
    op.execute(
        "INSERT INTO results (owner, content_key, origin_key, recipe, job_id, stored, created_at) "
        "SELECT 'local', content_key, origin_key, recipe, job_id, stored, created_at "
        "FROM results_before"
    )
    op.drop_table("results_before")


def _create_unique_key(table: str) -> None:
    columns = ["owner", "idempotency_key"]
    op.create_index(f"ix_{table}_owner_idempotency_key", table, columns, unique=True)


def _create_keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", ID, primary_key=True),
        sa.Column("owner", OWNER, nullable=False, index=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("sha256", DIGEST, nullable=False, unique=True),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT),
        sa.Column("revoked_at", MOMENT),
        sa.Column("queued_jobs", sa.Integer),
        sa.Column("stored_bytes", sa.BigInteger),
        sa.Column("upload_bytes", sa.BigInteger),
    )
    op.create_table(
        "webhook_secrets",
        sa.Column("owner", OWNER, primary_key=True),
        sa.Column("secret", sa.String(100), nullable=False),
    )


def _create_uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", ID, primary_key=True),
        sa.Column("owner", OWNER, nullable=False, index=True),
        sa.Column("files", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("missing_bytes", sa.BigInteger, nullable=False),
        sa.Column("part_size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False, index=True),
        sa.Column("model_id", DIGEST),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("idempotency_sha256", DIGEST),
    )
    _create_unique_key("uploads")
    op.create_table(
        "upload_parts",
        sa.Column(
            "upload_id", ID, sa.ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sha256", DIGEST, nullable=False),
    )


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("owner", OWNER, primary_key=True),
        sa.Column("id", DIGEST, primary_key=True, index=True),
        sa.Column("name", sa.String(1024), nullable=False),
        sa.Column("format", sa.String(32), nullable=False),
        sa.Column("tensors", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False, index=True),
    )
    op.create_table(
        "model_files",
        sa.Column("owner", OWNER, primary_key=True),
        sa.Column("model_id", DIGEST, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(1024), nullable=False),
        sa.Column(
            "sha256",
            DIGEST,
            sa.ForeignKey("files.sha256", ondelete="RESTRICT"),
            nullable=False,
            index=True,
        ),
        sa.ForeignKeyConstraint(
            ["owner", "model_id"], ["models.owner", "models.id"], ondelete="CASCADE"
        ),
    )
