"""Wall clocks that jump, against Dask's own sender and tornado's own timer."""

import asyncio
import gc
import time

import pytest
from distributed import batched
from distributed.batched import BatchedSend
from distributed.comm import connect, listen
from tornado.ioloop import IOLoop, PeriodicCallback

from palettery.app.execution.steady_clock import steady_time, use_steady_clock

HOUR_S = 3600
WITHIN_S = 30
JUMPS = [-HOUR_S, -30 * 24 * HOUR_S, HOUR_S]


@pytest.fixture
def jump(monkeypatch):
    """Set the wall clock of this process: a function of seconds; Dask's own is put back."""
    monkeypatch.setattr(batched, "time", lambda: time.time())
    real = time.time

    def by(seconds):
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return by


@pytest.mark.parametrize("seconds", JUMPS)
def test_messages_are_sent_whichever_way_the_clock_jumps(jump, seconds):
    async def send() -> None:
        use_steady_clock()
        received: asyncio.Queue[str] = asyncio.Queue()

        async def take(comm):
            while True:
                for message in await comm.read():
                    await received.put(message)

        async with listen("tcp://127.0.0.1:0", take) as listener:
            sender = BatchedSend("200ms")
            sender.start(await connect(listener.contact_address))
            sender.send("first")
            assert await asyncio.wait_for(received.get(), WITHIN_S) == "first"
            jump(seconds)  # while the sender still waits for the end of its interval
            sender.send("second")
            assert await asyncio.wait_for(received.get(), WITHIN_S) == "second"
            await sender.close()

    asyncio.run(send())


@pytest.mark.parametrize("seconds", JUMPS)
def test_timers_go_on_whichever_way_the_clock_jumps(jump, seconds):
    async def wait() -> None:
        use_steady_clock()
        called = asyncio.Event()
        timer = PeriodicCallback(called.set, 10)
        timer.start()
        await asyncio.wait_for(called.wait(), WITHIN_S)
        jump(seconds)
        for _ in range(3):
            called.clear()
            await asyncio.wait_for(called.wait(), WITHIN_S)
        timer.stop()

    asyncio.run(wait())


@pytest.mark.usefixtures("jump")
def test_loops_that_are_closed_stay_in_peace():
    """Waiting things of a loop that ended before do not disturb the next one's."""

    async def leave_a_timer() -> PeriodicCallback:
        timer = PeriodicCallback(lambda: None, 10)
        timer.start()
        return timer

    left = asyncio.run(leave_a_timer())
    frozen = gc.get_freeze_count()

    async def use() -> None:
        use_steady_clock()
        called = asyncio.Event()
        timer = PeriodicCallback(called.set, 10)
        timer.start()
        await asyncio.wait_for(called.wait(), WITHIN_S)
        timer.stop()

    asyncio.run(use())
    assert left.is_running()
    assert gc.get_freeze_count() == frozen


def test_the_steady_clock_tells_the_time_of_day_and_only_moves_on(jump):
    assert steady_time() == pytest.approx(time.time(), abs=5)
    before = steady_time()
    jump(-HOUR_S)
    assert before <= steady_time() < before + HOUR_S


@pytest.mark.usefixtures("jump")
def test_only_loops_that_want_it_have_it():
    async def clock() -> object:
        return IOLoop.current().time

    async def steady() -> object:
        use_steady_clock()
        return IOLoop.current().time

    assert asyncio.run(steady()) is steady_time
    assert asyncio.run(clock()) is not steady_time
