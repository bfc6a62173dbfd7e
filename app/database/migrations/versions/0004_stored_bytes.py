"""Stored bytes of jobs and configs, for the quota of their owners."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns; the estimate for an unfinished job is the size of its model."""
    for table, column in (("jobs", "stored_bytes"), ("configs", "size_bytes")):
        counted = sa.Column(column, sa.BigInteger, nullable=False, server_default=sa.text("0"))
        op.add_column(table, counted)
    op.execute("UPDATE jobs SET stored_bytes = coalesce(size_after_bytes, size_before_bytes)")
    op.execute("UPDATE configs SET size_bytes = length(document)")
