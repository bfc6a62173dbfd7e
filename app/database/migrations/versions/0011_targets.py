"""Targets of jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the columns; existing jobs have no target."""
    op.add_column("jobs", sa.Column("target", sa.JSON()))
    op.add_column("jobs", sa.Column("predicted_size_bytes", sa.BigInteger()))
