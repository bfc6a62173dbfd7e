"""Alembic's environment: it migrates on the connection that `migrate` opened."""

from alembic import context

import palettery.app.database.tables  # noqa: F401 - registers every table
from palettery.app.database.engine import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
