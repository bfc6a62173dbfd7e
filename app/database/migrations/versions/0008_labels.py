"""Labels of jobs, models and uploads; SHA-256 of the bytes of a job's model."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the columns; existing rows have no label."""
    for table in ("jobs", "models", "uploads"):
        op.add_column(table, sa.Column("label", sa.String(100)))
    op.add_column("jobs", sa.Column("model_sha256", sa.CHAR(64)))
