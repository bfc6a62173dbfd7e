"""An executor id is one process's alone, as long as that process lives."""

import asyncio
import socket
import threading

import pytest
from sqlalchemy import text

from palettery.app.database.engine import open_database
from palettery.app.errors import BadInput, DatabaseFailed
from palettery.app.execution import executor_lease
from palettery.app.execution.executor_lease import hold_lease
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)

on_postgres = pytest.mark.databases("postgresql")
HOLDERS = text(
    "SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
    " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
)
KILL = text("SELECT pg_terminate_backend(:pid)")
LOCK = text("SELECT pg_advisory_lock(hashtextextended('palettery ' || 'one', 0))")


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(executor_lease, "CHECK_INTERVAL_S", 0.05)


@pytest.fixture
def one(database_url):
    opened = open_database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def another(database_url):
    """The same database, as another process has it."""
    opened = open_database(database_url)
    yield opened
    opened.close()


def holders(database):
    with database.transaction() as session:
        return session.scalars(HOLDERS).all()


def kill(database, pid):
    with database.transaction() as session:
        assert session.scalar(KILL, {"pid": pid})


class Lost:
    """Counts the calls of `on_lost`."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1


async def assert_taken(database, name):
    with pytest.raises(BadInput, match=f"another process runs jobs as '{name}'; stop it, or give"):
        async with hold_lease(database, name, Lost()):
            pass


@on_postgres
def test_second_is_refused_until_the_first_is_through(one, another):
    async def run():
        async with hold_lease(one, "one", lost):
            await assert_taken(another, "one")
            await assert_taken(one, "one")
            assert len(holders(another)) == 1
        assert holders(another) == []
        async with hold_lease(another, "one", lost):
            await assert_taken(one, "one")

    lost = Lost()
    asyncio.run(run())
    assert lost.times == 0


@on_postgres
def test_it_is_released_when_the_block_fails(one, another):
    async def run():
        with pytest.raises(LookupError):
            async with hold_lease(one, "one", Lost()):
                raise LookupError
        async with hold_lease(another, "one", Lost()):
            pass

    asyncio.run(run())


@on_postgres
def test_other_names_are_free(one, another):
    async def run():
        async with hold_lease(one, "one", Lost()), hold_lease(another, "two", Lost()):
            assert len(holders(one)) == 2

    asyncio.run(run())


@on_postgres
def test_it_is_taken_again_after_its_connection_was_ended(one, another, until):
    async def run():
        async with hold_lease(one, "one", lost):
            (first,) = holders(another)
            kill(another, first)
            await until(lambda: set(holders(another)) - {first}, "the lock is taken again")
            await assert_taken(another, "one")
        assert holders(another) == []

    lost = Lost()
    asyncio.run(run())
    assert lost.times == 0


@on_postgres
def test_who_lost_it_to_another_is_told(one, another, until):
    """The other waits for the lock, so that it has it as soon as we have it no more."""
    taken, through = threading.Event(), threading.Event()

    def rival():
        with another.transaction() as session:
            session.execute(LOCK)
            taken.set()
            through.wait(60)

    async def run():
        async with hold_lease(one, "one", lost):
            (first,) = holders(one)
            waiting = asyncio.create_task(asyncio.to_thread(rival))
            await until(lambda: is_waiting(one), "the other waits")
            kill(one, first)
            await until(taken.is_set, "the other has it")
            await until(lambda: lost.times, "the loss was reported")
        through.set()
        await waiting

    lost = Lost()
    asyncio.run(run())
    assert lost.times == 1


def is_waiting(database):
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with database.transaction() as session:
        return session.scalar(waiting)


@pytest.mark.databases("sqlite")
def test_on_sqlite_the_data_folder_is_what_is_locked(one, another):
    async def run():
        async with hold_lease(one, "one", Lost()), hold_lease(another, "one", Lost()):
            pass

    asyncio.run(run())


def test_database_that_is_away_is_told():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    database = open_database(f"postgresql://palettery@127.0.0.1:{port}/postgres")

    async def run():
        async with hold_lease(database, "one", Lost()):
            pass

    with pytest.raises(DatabaseFailed):
        asyncio.run(run())
    database.close()
