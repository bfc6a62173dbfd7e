"""Summary of an upload's files, for lists of uploads."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

COUNT = {
    "sqlite": "json_array_length(files)",
    "postgresql": "json_array_length(CAST(files AS json))",
}
NAME = {
    "sqlite": "json_extract(files, '$[0].name')",
    "postgresql": "CAST(files AS json) -> 0 ->> 'name'",
}


def upgrade() -> None:
    """Add the number of files, and the name of the first."""
    number = sa.Column("file_count", sa.Integer, nullable=False, server_default=sa.text("1"))
    op.add_column("uploads", number)
    op.add_column(
        "uploads", sa.Column("name", sa.String(255), nullable=False, server_default=sa.text("''"))
    )
    kind = op.get_bind().dialect.name
    op.execute(f"UPDATE uploads SET file_count = {COUNT[kind]}, name = {NAME[kind]}")  # noqa: S608
