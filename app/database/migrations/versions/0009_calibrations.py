"""Calibrations, which are jobs of another kind."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the kind of jobs, all compressions so far, and the table of calibrations."""
    kind = sa.Column("kind", sa.String(16), nullable=False, server_default=sa.text("'compression'"))
    op.add_column("jobs", kind)
    op.create_table(
        "calibrations",
        sa.Column(
            "job_id",
            sa.String(36),
            sa.ForeignKey("jobs.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
    )
