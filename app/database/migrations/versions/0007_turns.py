"""Turns of queued jobs: owners are served alternately."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the columns; jobs that are already queued start first."""
    op.add_column("owners", sa.Column("turn", sa.BigInteger))
    op.add_column(
        "jobs", sa.Column("turn", sa.BigInteger, nullable=False, server_default=sa.text("0"))
    )
    op.create_index("ix_jobs_owner_queue", "jobs", ["owner", "state", "priority", "turn"])
