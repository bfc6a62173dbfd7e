"""Clocks that are set back, against Dask's own sender and tornado's own timer."""

import asyncio
import time

import pytest
from distributed.batched import BatchedSend
from distributed.comm import connect, listen
from tornado.ioloop import PeriodicCallback

from app.jobs import wall_clock

HOUR_S = 3600
WITHIN_S = 30


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(wall_clock, "LOOK_EVERY_S", 0.01)


def test_messages_that_wait_for_a_moment_an_hour_ahead_are_sent():
    async def send() -> None:
        received: asyncio.Queue[str] = asyncio.Queue()

        async def take(comm):
            while True:
                for message in await comm.read():
                    await received.put(message)

        async with listen("tcp://127.0.0.1:0", take) as listener:
            sender = BatchedSend("2ms")
            sender.start(await connect(listener.contact_address))
            sender.send("first")
            assert await asyncio.wait_for(received.get(), WITHIN_S) == "first"
            # As a clock leaves it that is set back by an hour right behind a message.
            sender.next_deadline = time.time() + HOUR_S
            sender.send("second")
            with pytest.raises(TimeoutError):  # what all this is for
                await asyncio.wait_for(received.get(), 0.2)
            wall_clock.go_on()
            assert await asyncio.wait_for(received.get(), WITHIN_S) == "second"
            await sender.close()

    asyncio.run(send())


@pytest.mark.usefixtures("soon")
def test_timers_go_on_once_the_clock_was_set_back(caplog):
    async def wait() -> None:
        called, shift = asyncio.Event(), 0.0
        timer = PeriodicCallback(called.set, 10)
        timer.start()
        watching = asyncio.create_task(wall_clock.watch(lambda: time.time() + shift))
        await asyncio.wait_for(called.wait(), WITHIN_S)
        # As tornado leaves it behind a clock that is set back.
        timer.io_loop.remove_timeout(timer._timeout)
        timer._timeout = timer.io_loop.add_timeout(time.time() + HOUR_S, timer._run)
        called.clear()
        shift = -float(HOUR_S)
        await asyncio.wait_for(called.wait(), WITHIN_S)
        timer.stop()
        watching.cancel()

    asyncio.run(wait())
    assert "set back by 3600 s" in caplog.text


@pytest.mark.usefixtures("soon")
def test_small_steps_and_steps_ahead_are_nothing(caplog, until):
    looks = 0

    def wall() -> float:
        nonlocal looks
        looks += 1
        return time.time() + (HOUR_S if looks > 5 else -0.01 * looks)

    async def look() -> None:
        watching = asyncio.create_task(wall_clock.watch(wall))
        await until(lambda: looks > 10, "it has looked several times")
        watching.cancel()

    asyncio.run(look())
    assert not caplog.text
