"""Leases of executor ids: two processes with the same one would run the same jobs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from palettery.app.database.engine import Database, translate_database_errors
from palettery.app.errors import BadInput

CHECK_INTERVAL_S = 2.0
"""Time between two checks of the lock."""
_LOCK = text("SELECT pg_try_advisory_lock(hashtextextended('palettery ' || :name, 0))")
_UNLOCK = text("SELECT pg_advisory_unlock_all()")

log = logging.getLogger(__name__)


@asynccontextmanager
async def hold_lease(
    database: Database, executor_id: str, on_lost: Callable[[], None]
) -> AsyncIterator[None]:
    """Lease an executor id until the block ends; with SQLite, the data folder's lock suffices.

    The lease is an advisory lock of Postgres, which ends with the connection, so a dead process has
    none. After a restart of Postgres it is taken again; if another process was faster, `on_lost` is
    called.

    Raises:
        BadInput: another process has the lease.
    """
    if database.engine.dialect.name != "postgresql":
        yield
        return
    with translate_database_errors():
        connection = await asyncio.to_thread(_lock, database, executor_id)
    if connection is None:
        raise BadInput(
            f"another process runs jobs as {executor_id!r}; stop it, or give this one a "
            "PALETTERY_EXECUTOR_ID of its own"
        )
    lease = _Lease(connection)
    renewal = asyncio.create_task(_keep(lease, database, executor_id, on_lost))
    try:
        yield
    finally:
        renewal.cancel()
        await asyncio.gather(renewal, return_exceptions=True)
        await asyncio.to_thread(_unlock, lease.connection)


@dataclass
class _Lease:
    connection: Connection | None
    """The connection that has the lock; None while the lock may be lost."""


async def _keep(
    lease: _Lease, database: Database, executor_id: str, on_lost: Callable[[], None]
) -> None:
    """Check the lock periodically, and take it again when its connection is lost."""
    while True:
        await asyncio.sleep(CHECK_INTERVAL_S)
        try:
            if lease.connection is not None:
                await asyncio.to_thread(lease.connection.execute, text("SELECT 1"))
                continue
            lease.connection = await asyncio.to_thread(_lock, database, executor_id)
        except SQLAlchemyError as error:
            log.warning("the lock of %s may be lost: %s", executor_id, error)
            _close(lease.connection)
            lease.connection = None
            continue
        if lease.connection is None:
            log.critical("another process took over as %s; stopping", executor_id)
            on_lost()
            return


def _lock(database: Database, executor_id: str) -> Connection | None:
    """Return a connection that has the lock; None if another process has it."""
    connection = database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    # With these Postgres soon detects that this machine is gone.
    for setting in ("idle = 10", "interval = 5", "count = 3"):
        connection.execute(text(f"SET tcp_keepalives_{setting}"))
    if connection.execute(_LOCK, {"name": executor_id}).scalar():
        return connection
    _close(connection)
    return None


def _unlock(connection: Connection | None) -> None:
    """Release the lock now; Postgres detects a closed connection only later."""
    if connection is not None:
        with suppress(SQLAlchemyError):
            connection.execute(_UNLOCK)
    _close(connection)


def _close(connection: Connection | None) -> None:
    """Close the connection; in the pool it would still have the lock."""
    if connection is not None:
        with suppress(SQLAlchemyError):
            connection.invalidate()
        with suppress(SQLAlchemyError):
            connection.close()
