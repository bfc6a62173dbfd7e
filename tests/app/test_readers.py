"""What is large is read in a process of its own."""

import asyncio
import gc
import os
import signal
import threading

import pytest

from app.errors import InvalidConfig, WorkerDied
from app.readers import AT_ONCE, LARGE_BYTES, Readers
from schemas.problem import InvalidField

DEADLINE_S = 20


def run(size_bytes, function, *args):
    return asyncio.run(Readers().run("a", size_bytes, function, *args))


def test_small_is_read_here_and_large_is_not():
    assert run(LARGE_BYTES - 1, os.getpid) == os.getpid()
    assert run(LARGE_BYTES, os.getpid) != os.getpid()


def refuse(detail):
    raise InvalidConfig(detail, [InvalidField(pointer="/a", detail="b")])


@pytest.mark.parametrize("size_bytes", [0, LARGE_BYTES])
def test_error_comes_back_whole(size_bytes):
    with pytest.raises(InvalidConfig) as told:
        run(size_bytes, refuse, "why")
    assert told.value.detail == "why"
    assert [fault.pointer for fault in told.value.errors] == ["/a"]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_process_that_dies_is_told_of():
    with pytest.raises(WorkerDied, match="the process that read the request died"):
        run(LARGE_BYTES, die)


def test_megabytes_go_through():
    data = os.urandom(8 << 20)
    assert run(len(data), bytes.upper, data) == data.upper()


def test_one_owner_leaves_a_turn_for_others():
    begun, ended = threading.Semaphore(0), threading.Event()

    def slow():
        begun.release()
        assert ended.wait(DEADLINE_S)
        return "slow"

    async def asked():
        readers = Readers()
        slows = [asyncio.create_task(readers.run("a", 0, slow)) for _ in range(3 * AT_ONCE)]
        try:
            for _ in range(AT_ONCE - 1):
                assert await asyncio.to_thread(begun.acquire, timeout=DEADLINE_S)
            async with asyncio.timeout(DEADLINE_S):
                assert await readers.run("b", 0, str, 1) == "1"
            assert not any(task.done() for task in slows)
            assert not begun.acquire(blocking=False), "one more of the owner's has begun"
        finally:
            ended.set()
            assert await asyncio.gather(*slows) == ["slow"] * len(slows)

    asyncio.run(asked())


def test_owner_that_asks_no_more_takes_no_memory():
    readers = Readers()

    async def asked():
        await asyncio.gather(*(readers.run(f"o{n % 4}", 0, str, n) for n in range(20)))

    asyncio.run(asked())
    gc.collect()
    assert len(readers._turns_of) == 0
