"""Table of jobs, as in the first version, which recorded no revisions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table of jobs."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("model_name", sa.String(1024), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("started_at", moment),
        sa.Column("ended_at", moment),
        sa.Column("tensors_done", sa.Integer, nullable=False),
        sa.Column("tensors_total", sa.Integer, nullable=False),
        sa.Column("bytes_done", sa.BigInteger, nullable=False),
        sa.Column("bytes_total", sa.BigInteger, nullable=False),
        sa.Column("size_before_bytes", sa.BigInteger, nullable=False),
        sa.Column("size_after_bytes", sa.BigInteger),
        sa.Column("error", sa.JSON),
    )
