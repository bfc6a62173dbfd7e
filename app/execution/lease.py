"""One process at a time for each executor id: two would run the same jobs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from palettery.app.database.engine import Database, translated_errors
from palettery.app.errors import BadInput

LOOK_EVERY_S = 2.0
"""Between two looks whether the lock is still ours."""
_TAKE = text("SELECT pg_try_advisory_lock(hashtextextended('palettery ' || :name, 0))")
_GIVE_BACK = text("SELECT pg_advisory_unlock_all()")

log = logging.getLogger(__name__)


@asynccontextmanager
async def leased(
    database: Database, executor_id: str, on_lost: Callable[[], None]
) -> AsyncIterator[None]:
    """Hold an executor id as long as the block runs; on SQLite the data folder's lock does it.

    The lock is one of Postgres that ends with our connection, so a dead process holds none. When
    Postgres was restarted it is taken again; `on_lost` is called if another was quicker.

    Raises:
        BadInput: another process holds it.
    """
    if database.engine.dialect.name != "postgresql":
        yield
        return
    with translated_errors():
        connection = await asyncio.to_thread(_taken, database, executor_id)
    if connection is None:
        raise BadInput(
            f"another process runs jobs as {executor_id!r}; stop it, or give this one a "
            "PALETTERY_EXECUTOR_ID of its own"
        )
    held = _Held(connection)
    keeping = asyncio.create_task(_keep(held, database, executor_id, on_lost))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await asyncio.to_thread(_give_back, held.connection)


@dataclass
class _Held:
    connection: Connection | None
    """Whose lock it is; None while it may be lost."""


async def _keep(
    held: _Held, database: Database, executor_id: str, on_lost: Callable[[], None]
) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            if held.connection is not None:
                await asyncio.to_thread(held.connection.execute, text("SELECT 1"))
                continue
            held.connection = await asyncio.to_thread(_taken, database, executor_id)
        except SQLAlchemyError as error:
            log.warning("the lock of %s may be lost: %s", executor_id, error)
            _close(held.connection)
            held.connection = None
            continue
        if held.connection is None:
            log.critical("another process took over as %s; stopping", executor_id)
            on_lost()
            return


def _taken(database: Database, executor_id: str) -> Connection | None:
    """A connection that holds the lock; None when another holds it."""
    connection = database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    # So that Postgres soon notices when this machine is gone.
    for setting in ("idle = 10", "interval = 5", "count = 3"):
        connection.execute(text(f"SET tcp_keepalives_{setting}"))
    if connection.execute(_TAKE, {"name": executor_id}).scalar():
        return connection
    _close(connection)
    return None


def _give_back(connection: Connection | None) -> None:
    """Release the lock now: Postgres notices some time later that a connection was closed."""
    if connection is not None:
        with suppress(SQLAlchemyError):
            connection.execute(_GIVE_BACK)
    _close(connection)


def _close(connection: Connection | None) -> None:
    """Close for good: a connection that went back to the pool would hold the lock on."""
    if connection is not None:
        with suppress(SQLAlchemyError):
            connection.invalidate()
        with suppress(SQLAlchemyError):
            connection.close()
