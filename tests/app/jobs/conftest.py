import asyncio
import time

import pytest

from palettery.app.database.engine import open_database
from palettery.app.execution.engine import Engine
from palettery.app.jobs.repository import Records
from palettery.app.roles import role as roles


@pytest.fixture
def whole_database(database_url):
    """A database with the tables of the engine beside ours."""
    made = open_database(database_url)
    roles.migrate(made)
    yield made
    made.close()


@pytest.fixture
def engine(whole_database):
    made = Engine(whole_database)
    yield made
    made.close()


@pytest.fixture
def jobs(whole_database):
    """Rows of jobs, in the engine's database."""
    return Records(whole_database)


@pytest.fixture
def records(database):
    """Rows of jobs, in a database of ours alone."""
    return Records(database)


@pytest.fixture
def until():
    """Wait in a coroutine until something holds."""

    async def wait(holds, what, timeout_s=30):
        deadline = time.monotonic() + timeout_s
        while not await asyncio.to_thread(holds):
            assert time.monotonic() < deadline, f"in vain: {what}"
            await asyncio.sleep(0.02)

    return wait
