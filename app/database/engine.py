"""Connections and transactions of the database: SQLite in a file, or Postgres."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Select,
    create_engine,
    event,
    make_url,
    select,
)
from sqlalchemy import exc as errors
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

from palettery.app.errors import BadInput, DatabaseFailed

DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",  # a dependency of DBOS
    "postgresql+psycopg": "postgresql+psycopg",
}
POSTGRES_OPTIONS = {
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""Timeouts for a silent server, in seconds, the last one in ms. The URL may override them."""
PRAGMAS = ("busy_timeout=10000", "journal_mode=WAL", "foreign_keys=ON")
"""`busy_timeout` comes first, because the change to WAL needs an exclusive lock."""
POOL = {"pool_size": 15, "max_overflow": 0}
"""All connections stay open: waiting for one takes less time than opening a new one."""
READ_THREADS = 4
"""Threads for short reads; more of them would only wait for the interpreter's lock."""
MAX_IN_LIST = 10_000
"""Maximum number of values in one IN list; SQLite allows 32,766, Postgres 65,535."""

WRITE_PREFIXES = ("INSERT", "UPDATE", "DELETE", "REPLAC", "BEGIN ")
"""First six characters of the statements that start a write."""
PG_DAMAGE_CODES = ("XX001", "XX002")
"""SQLSTATE codes `data_corrupted` and `index_corrupted`."""
WRITE_LOCK_KEY, WRITE_LOCK_TIMEOUT_S = "writes", 10.0
"""Key in `Connection.info` of the connection that holds the write lock, and timeout of the lock."""

P = ParamSpec("P")
T = TypeVar("T")
Clock = Callable[[], datetime]
"""Function that returns the current time with its time zone."""

log = logging.getLogger(__name__)


class Base(DeclarativeBase):
    """Base class of all tables."""


class UtcDateTime(TypeDecorator[datetime]):
    """Time stamp stored in UTC; SQLite does not store time zones, so UTC is set again on read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert a time stamp to UTC."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return a stored time stamp in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Database:
    """Sessions and connections of one database; every use is a transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._damage: str | None = None

        @event.listens_for(engine, "handle_error")
        def _(context: ExceptionContext) -> None:
            if _is_damage(context.original_exception):
                self._report_damage(str(context.original_exception))

        self._readers = ThreadPoolExecutor(READ_THREADS, "read")

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a session that commits at the end of the block, and rolls back on an error.

        On SQLite a transaction begins with its first write; reads before it are not part of it.

        Raises:
            DatabaseFailed: the database is unreachable, locked or out of space; a retry may help.
        """
        with (
            translate_database_errors(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a connection for reads by prepared statements, at a third of the cost of a session.

        Raises:
            DatabaseFailed: the database is unreachable or locked; a retry may help.
        """
        with translate_database_errors(), self.engine.connect() as connection:
            yield connection

    async def read_in_thread(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of a short read, run in a thread of its own pool."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, partial(read, *args, **kwargs))

    def health_problem(self) -> str | None:
        """Return why the database is unavailable or damaged; None if it is healthy.

        The check reads every table. Damage that any query meets is reported until the process ends.
        """
        try:
            with self.engine.connect() as connection:
                for query in _health_queries():
                    connection.execute(query).all()
        except errors.SQLAlchemyError as error:
            return self._damage or _first_line(error)
        return self._damage

    def check_integrity(self) -> None:
        """Check the whole database for damage, on SQLite only; this takes one second per GB."""
        if self.engine.dialect.name != "sqlite":
            return
        with translate_database_errors(), self.engine.connect() as connection:
            result = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if result != "ok":
            self._report_damage(str(result))

    def _report_damage(self, damage: str) -> None:
        if self._damage is None:
            log.error("the database is damaged: %s; restore it from a backup", damage)
        self._damage = f"it is damaged: {damage}"

    def close(self) -> None:
        """Close all connections."""
        self._readers.shutdown()
        self.engine.dispose()


def open_database(url: str) -> Database:
    """Return the database at a SQLAlchemy URL, without connecting to it.

    Raises:
        BadInput: the URL is malformed, of another kind of database, or has options for SQLite.
    """
    try:
        address = make_url(url)
    except (errors.ArgumentError, ValueError) as error:
        raise BadInput("the database URL is malformed; see PALETTERY_DATABASE_URL") from error
    kind = address.drivername
    if kind not in DRIVERS:
        raise BadInput(f"the database is {kind[:64]!r}; use sqlite or postgresql")
    if kind == "sqlite" and "?" in url:
        raise BadInput(
            "the database URL has a ?, which ends the path of the file; write %3F if it is part "
            "of the path"
        )
    address = address.set(drivername=DRIVERS[kind])
    return Database(_sqlite(address) if kind == "sqlite" else _postgres(address))


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def chunks(values: Collection[str]) -> Iterator[list[str]]:
    """Split values, without duplicates, into lists that fit into one statement each."""
    unique = list(dict.fromkeys(values))
    return (unique[start : start + MAX_IN_LIST] for start in range(0, len(unique), MAX_IN_LIST))


def insert(session: Session, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT statement that supports ON CONFLICT, in the dialect of the session."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


@contextmanager
def translate_database_errors() -> Iterator[None]:
    """Translate errors of the database driver to `DatabaseFailed`."""
    try:
        yield
    except (errors.OperationalError, errors.InterfaceError, errors.TimeoutError) as error:
        raise _database_error(error) from error
    except errors.DBAPIError as error:
        if not error.connection_invalidated and not _is_damage(error.orig):
            raise
        raise _database_error(error) from error


@cache
def _health_queries() -> Sequence[Select[Any]]:
    """Return queries of the first and, by the primary key's index, the last row of each table."""
    tables = [select(table).limit(1) for table in Base.metadata.tables.values()]
    by_index = [
        select(table).order_by(*(column.desc() for column in table.primary_key)).limit(1)
        for table in Base.metadata.tables.values()
    ]
    return tables + by_index


def _is_damage(error: BaseException | None) -> bool:
    """Return whether a driver's error reports damaged data.

    Source: sqlite.org/rescode.html, SQLITE_CORRUPT and SQLITE_NOTADB with their extended codes;
    Postgres' error class XX.
    """
    code = getattr(error, "sqlite_errorcode", 0) or 0
    state = getattr(error, "sqlstate", None) or ""
    return (
        code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or state in PG_DAMAGE_CODES
    )


def _database_error(error: errors.SQLAlchemyError) -> DatabaseFailed:
    message = _first_line(error)
    log.warning("the database failed: %s", message)
    return DatabaseFailed(f"the database failed: {message}")


def _first_line(error: errors.SQLAlchemyError) -> str:
    """Return the first line of the driver's message."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _postgres(address: URL) -> Engine:
    options = {name: value for name, value in POSTGRES_OPTIONS.items() if name not in address.query}
    return create_engine(address, pool_pre_ping=True, connect_args=options, **POOL)


def _sqlite(address: URL) -> Engine:
    engine = create_engine(address, **POOL)

    @event.listens_for(engine, "connect")
    def _(connection: DBAPIConnection, _: object) -> None:
        connection.isolation_level = "IMMEDIATE"  # as DBOS requires
        cursor = connection.cursor()
        for pragma in PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    _queue_writers(engine)
    return engine


def _queue_writers(engine: Engine) -> None:
    """Queue the writers of this process on a lock.

    SQLite allows one writer at a time. Others poll, with sleeps of up to a tenth of a second, which
    is many times as long as a write takes.
    """
    lock = threading.Lock()

    @event.listens_for(engine, "before_cursor_execute")
    def _(connection: Connection, _: object, statement: str, *__: object) -> None:
        if (
            not connection.info.get(WRITE_LOCK_KEY)
            and statement.lstrip()[:6].upper() in WRITE_PREFIXES
        ):
            connection.info[WRITE_LOCK_KEY] = lock.acquire(timeout=WRITE_LOCK_TIMEOUT_S)

    @event.listens_for(engine, "checkin")
    def _(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        if record.info.pop(WRITE_LOCK_KEY, False):
            lock.release()
