"""Changes of jobs for live lists, and indexes for lists of jobs by state or model."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table of changes, and indexes that sort jobs of a state or a model."""
    op.create_table(
        "job_changes",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(36), nullable=False),
    )
    op.drop_index("ix_jobs_owner_state", "jobs")
    op.create_index("ix_jobs_owner_state_id", "jobs", ["owner", "state", "id"])
    op.create_index("ix_jobs_owner_model_id", "jobs", ["owner", "model_id", "state", "id"])
