"""Whether the service is well: told soon, even when a part of it hangs."""

import asyncio
import threading

import pytest

from app.errors import DatabaseFailed
from app.health import Health


@pytest.fixture
def never():
    """A check that hangs until the test is over."""
    over = threading.Event()
    asked = []

    def hang() -> bool:
        asked.append(None)
        over.wait(60)
        return True

    hang.asked = asked
    yield hang
    over.set()


def failing() -> bool:
    raise DatabaseFailed("away")


def test_every_part_is_well():
    health = Health({"database": lambda: True, "store": lambda: True})
    assert asyncio.run(health.away()) == {}
    assert health.parts == ("database", "store")


def test_parts_that_are_not_are_named():
    health = Health({"database": failing, "store": lambda: False, "workers": lambda: True})
    assert asyncio.run(health.away()) == {
        "database": "does not answer",
        "store": "does not answer",
    }


def test_part_that_hangs_holds_nobody_up_and_one_thread(never):
    health = Health({"database": lambda: True, "store": never}, within_s=0.1)

    async def ask() -> list[dict[str, str]]:
        return await asyncio.gather(*(health.away() for _ in range(50))) + [await health.away()]

    told = asyncio.run(ask())
    assert told == [{"store": "does not answer within 0.1 s"}] * 51
    assert len(never.asked) == 1


def test_part_that_hung_is_asked_again():
    over, answers = threading.Event(), [True, True]

    def hang_once() -> bool:
        over.wait(60)
        return answers.pop()

    health = Health({"store": hang_once}, within_s=0.1)

    async def ask() -> None:
        assert await health.away() == {"store": "does not answer within 0.1 s"}
        over.set()
        while await health.away():
            pass
        assert await health.away() == {}

    asyncio.run(asyncio.wait_for(ask(), 60))
