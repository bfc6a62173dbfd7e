"""Run by Alembic, on the connection and in the transaction that `migrate` has opened."""

from alembic import context

import palettery.app.database.tables  # noqa: F401 - so that every table is known
from palettery.app.database.engine import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
