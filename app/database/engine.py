"""The database of our own rows: SQLite in a file, or Postgres, behind one URL."""

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
    "postgresql": "postgresql+psycopg",  # which DBOS brings
    "postgresql+psycopg": "postgresql+psycopg",
}
POSTGRES_OPTIONS = {
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""So that a silent server is given up: seconds, the last in ms. A URL may say otherwise."""
PRAGMAS = ("busy_timeout=10000", "journal_mode=WAL", "foreign_keys=ON")
"""Waiting comes first: the change to WAL needs the file alone."""
POOL = {"pool_size": 15, "max_overflow": 0}
"""All connections are kept: whoever waits for one waits for less long than a new one would take."""
READERS = 4
"""Threads for short reads: more of them would only wait for the interpreter's lock, and each other.
"""
IN_LIST = 10_000
"""Values in one IN list; SQLite takes 32,766, Postgres 65,535."""

BEGINS = ("INSERT", "UPDATE", "DELETE", "REPLAC", "BEGIN ")
"""First letters of the statements that begin to write."""
PG_DAMAGE = ("XX001", "XX002")
"""`data_corrupted` and `index_corrupted`."""
WRITES, TURN_S = "writes", 10.0
"""Mark of a connection whose turn it is, and how long one waits for it."""

P = ParamSpec("P")
T = TypeVar("T")
Clock = Callable[[], datetime]
"""Tells the time, with its zone."""

log = logging.getLogger(__name__)


class Base(DeclarativeBase):
    """Root of our tables."""


class Moment(TypeDecorator[datetime]):
    """A point in time, kept in UTC; SQLite forgets zones, so what comes back gets UTC's."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """On the way in."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """On the way out."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Database:
    """One database; every use of it is a transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._damage: str | None = None

        @event.listens_for(engine, "handle_error")
        def _(context: ExceptionContext) -> None:
            if _is_damage(context.original_exception):
                self._note_damage(str(context.original_exception))

        self._readers = ThreadPoolExecutor(READERS, "read")

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session whose work is kept as a whole when the block ends well, and not at all else.

        On SQLite a transaction begins with its first write: what is read before that is read alone.

        Raises:
            DatabaseFailed: the database is away, locked or out of space; another try may help.
        """
        with (
            reported(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that only reads, by statements made before: a third of what a session costs.

        Raises:
            DatabaseFailed: the database is away, or locked; another try may help.
        """
        with reported(), self.engine.connect() as connection:
            yield connection

    async def quickly(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a function reads that takes no longer than the way to another thread and back."""
        running = asyncio.get_running_loop()
        return await running.run_in_executor(self._readers, partial(read, *args, **kwargs))

    def fault(self) -> str | None:
        """Why the database does not answer, or that it is damaged; None if it is well.

        Every table is looked at as requests do; damage that anything met is told until the end.
        """
        try:
            with self.engine.connect() as connection:
                for look in _looks():
                    connection.execute(look).all()
        except errors.SQLAlchemyError as error:
            return self._damage or _first_line(error)
        return self._damage

    def check(self) -> None:
        """Look for damage everywhere, where the database can do that: it takes a second a GB."""
        if self.engine.dialect.name != "sqlite":
            return
        with reported(), self.engine.connect() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if found != "ok":
            self._note_damage(str(found))

    def _note_damage(self, what: str) -> None:
        if self._damage is None:
            log.error("the database is damaged: %s; restore it from a back-up", what)
        self._damage = f"it is damaged: {what}"

    def close(self) -> None:
        """Let go of the database."""
        self._readers.shutdown()
        self.engine.dispose()


def open_database(url: str) -> Database:
    """The database at a SQLAlchemy URL; it is not asked for anything yet.

    Raises:
        BadInput: the URL is none, or one of another kind of database, or SQLite's with options.
    """
    try:
        address = make_url(url)
    except (errors.ArgumentError, ValueError) as error:
        raise BadInput("the database URL cannot be read; see PALETTERY_DATABASE_URL") from error
    kind = address.drivername
    if kind not in DRIVERS:
        raise BadInput(f"the database is {kind[:64]!r}; sqlite and postgresql can be used")
    if kind == "sqlite" and "?" in url:
        raise BadInput(
            "the database URL has a ? that ends the path of the file; write %3F where it is part "
            "of it"
        )
    address = address.set(drivername=DRIVERS[kind])
    return Database(_sqlite(address) if kind == "sqlite" else _postgres(address))


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def chunks(values: Collection[str]) -> Iterator[list[str]]:
    """Lists short enough for one statement each; what is named twice comes once."""
    once = list(dict.fromkeys(values))
    return (once[start : start + IN_LIST] for start in range(0, len(once), IN_LIST))


def insert(session: Session, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT, which both databases spell alike."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


@contextmanager
def reported() -> Iterator[None]:
    """Turns a driver's failures into `DatabaseFailed`."""
    try:
        yield
    except (errors.OperationalError, errors.InterfaceError, errors.TimeoutError) as error:
        raise _failed(error) from error
    except errors.DBAPIError as error:
        if not error.connection_invalidated and not _is_damage(error.orig):
            raise
        raise _failed(error) from error


@cache
def _looks() -> Sequence[Select[Any]]:
    """Statements that read a row of each table, the first one, and the last one by its index."""
    tables = [select(table).limit(1) for table in Base.metadata.tables.values()]
    by_index = [
        select(table).order_by(*(column.desc() for column in table.primary_key)).limit(1)
        for table in Base.metadata.tables.values()
    ]
    return tables + by_index


def _is_damage(error: BaseException | None) -> bool:
    """Whether a driver's error says that what is stored is not as it was written.

    Source: sqlite.org/rescode.html, SQLITE_CORRUPT and SQLITE_NOTADB with what extends them;
    Postgres' class XX of errors.
    """
    code = getattr(error, "sqlite_errorcode", 0) or 0
    state = getattr(error, "sqlstate", None) or ""
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or state in PG_DAMAGE


def _failed(error: errors.SQLAlchemyError) -> DatabaseFailed:
    told = _first_line(error)
    log.warning("the database failed: %s", told)
    return DatabaseFailed(f"the database failed: {told}")


def _first_line(error: errors.SQLAlchemyError) -> str:
    """What the driver said."""
    told = str(getattr(error, "orig", None) or error).strip().splitlines()
    return told[0] if told else type(error).__name__


def _postgres(address: URL) -> Engine:
    options = {name: value for name, value in POSTGRES_OPTIONS.items() if name not in address.query}
    return create_engine(address, pool_pre_ping=True, connect_args=options, **POOL)


def _sqlite(address: URL) -> Engine:
    engine = create_engine(address, **POOL)

    @event.listens_for(engine, "connect")
    def _(connection: DBAPIConnection, _: object) -> None:
        connection.isolation_level = "IMMEDIATE"  # as the engine of jobs asks for
        cursor = connection.cursor()
        for pragma in PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    _take_turns(engine)
    return engine


def _take_turns(engine: Engine) -> None:
    """Have writers of this process wait for each other, in the order they came.

    SQLite lets one write at a time; the others it has sleep and look again, for up to a tenth of a
    second each time, which is many times what a write takes.
    """
    turn = threading.Lock()

    @event.listens_for(engine, "before_cursor_execute")
    def _(connection: Connection, _: object, statement: str, *__: object) -> None:
        if not connection.info.get(WRITES) and statement.lstrip()[:6].upper() in BEGINS:
            connection.info[WRITES] = turn.acquire(timeout=TURN_S)

    @event.listens_for(engine, "checkin")
    def _(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        if record.info.pop(WRITES, False):
            turn.release()
