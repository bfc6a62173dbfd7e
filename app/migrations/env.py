"""Run by Alembic, on the connection and in the transaction that `migrate` has opened."""

from alembic import context

import app.rows  # noqa: F401 - so that every table is known
from app.database import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
