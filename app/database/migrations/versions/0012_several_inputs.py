"""Evaluations on inputs of several uploads."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the column; existing evaluations have one id, in the column that there is."""
    op.add_column("evaluations", sa.Column("inputs_ids", sa.JSON()))
