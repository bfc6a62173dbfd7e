"""Evaluations of jobs' artifacts, and the summary of the one that a job asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the table and the column; existing jobs have no evaluation."""
    op.add_column("jobs", sa.Column("evaluation", sa.JSON()))
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column(
            "job_id", sa.String(36), sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("is_part_of_job", sa.Boolean(), nullable=False),
        sa.Column("inputs_id", sa.CHAR(64), nullable=False),
        sa.Column("inputs", sa.Text(), nullable=False),
        sa.Column("at_least", sa.JSON()),
        sa.Column("outputs_key", sa.CHAR(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("samples_done", sa.Integer(), nullable=False),
        sa.Column("samples_total", sa.Integer(), nullable=False),
        sa.Column("result", sa.Text()),
        sa.Column("error", sa.JSON()),
    )
    op.create_index("ix_evaluations_job_id", "evaluations", ["job_id"])
    op.create_index("ix_evaluations_owner_outputs_key", "evaluations", ["owner", "outputs_key"])
