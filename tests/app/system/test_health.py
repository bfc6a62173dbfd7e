"""Health checks respond in time, also when a component hangs."""

import asyncio
import logging
import threading

import pytest

from palettery.app.errors import DatabaseFailed
from palettery.app.system.health import Health


@pytest.fixture
def never():
    """A check that hangs until the test is over."""
    over = threading.Event()
    calls = []

    def hang() -> None:
        calls.append(None)
        over.wait(60)

    hang.calls = calls
    yield hang
    over.set()


def failing() -> str:
    raise DatabaseFailed("the database failed: why")


def well() -> None:
    pass


def test_every_part_is_well():
    health = Health({"database": well, "store": well})
    assert asyncio.run(health.failures()) == {}
    assert health.components == ("database", "store")


def test_parts_that_are_not_are_named():
    health = Health({"database": failing, "store": lambda: "no folder", "workers": well})
    assert asyncio.run(health.failures()) == {
        "database": "does not respond",
        "store": "does not respond",
    }


def test_part_that_hangs_holds_nobody_up_and_one_thread(never):
    health = Health({"database": well, "store": never}, timeout_s=0.1)

    async def ask() -> list[dict[str, str]]:
        return await asyncio.gather(*(health.failures() for _ in range(50))) + [
            await health.failures()
        ]

    results = asyncio.run(ask())
    assert results == [{"store": "does not respond within 0.1 s"}] * 51
    assert len(never.calls) == 1


def test_part_that_hung_is_asked_again():
    over = threading.Event()

    def hang_once() -> None:
        over.wait(60)

    health = Health({"store": hang_once}, timeout_s=0.1)

    async def ask() -> None:
        assert await health.failures() == {"store": "does not respond within 0.1 s"}
        over.set()
        while await health.failures():
            pass
        assert await health.failures() == {}

    asyncio.run(asyncio.wait_for(ask(), 60))


def lines(caplog):
    return [(record.levelname, record.message) for record in caplog.records]


def test_log_tells_once_that_a_part_went_and_why_and_once_that_it_is_back(caplog):
    caplog.set_level(logging.INFO, "palettery.app.system.health")
    fault = "no folder /srv/store"
    health = Health({"database": well, "store": lambda: fault})

    async def ask_often() -> None:
        await asyncio.gather(*(health.failures() for _ in range(20)))
        await health.failures()

    asyncio.run(ask_often())
    assert lines(caplog) == [("WARNING", "store is unavailable: no folder /srv/store")]
    fault = None
    asyncio.run(ask_often())
    assert lines(caplog)[1:] == [("INFO", "store is back")]
    fault = "no folder again"
    asyncio.run(ask_often())
    assert lines(caplog)[2:] == [("WARNING", "store is unavailable: no folder again")]


def test_who_asks_while_others_do_is_told_what_was_found(caplog):
    """A part that is calls anew has not gone away meanwhile."""
    health = Health({"store": well})

    async def ask_on() -> None:
        for _ in range(50):
            assert await health.failures() == {}

    async def ask() -> None:
        await asyncio.gather(*(ask_on() for _ in range(8)))

    asyncio.run(ask())
    assert lines(caplog) == []


def test_log_tells_of_a_part_that_hangs(caplog, never):
    asyncio.run(Health({"store": never}, timeout_s=0.05).failures())
    assert lines(caplog) == [("WARNING", "store is unavailable: does not respond within 0.05 s")]
