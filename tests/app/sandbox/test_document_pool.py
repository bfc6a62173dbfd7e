"""Documents are read in other processes, within limits, by turns, and for clients that wait."""

import asyncio
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from palettery.app.errors import (
    MAX_LISTED,
    InvalidConfig,
    InvalidUpload,
    OverQuota,
    TooLarge,
    WorkerDied,
)
from palettery.app.sandbox import document_pool
from palettery.app.sandbox.document_pool import (
    LARGE_BYTES,
    DocumentClient,
    DocumentPool,
)
from palettery.app.sandbox.document_worker import DocumentFault
from palettery.app.settings import Limits
from palettery.app.storage.spooled_content import IN_MEMORY_BYTES, SpooledContent
from palettery.schemas.problem import InvalidField

DEADLINE_S = 60
SIZES = [0, LARGE_BYTES]
OWNER = DocumentClient("a")


def run(scenario, **limits):
    """What a coroutine function returns, called with a pool that is closed then."""

    async def whole():
        pool = DocumentPool(Limits(**limits))
        try:
            return await asyncio.wait_for(scenario(pool), DEADLINE_S)
        finally:
            await pool.close()

    return asyncio.run(whole())


def call(size_bytes, function, *args, **limits):
    return run(lambda pool: pool.run(OWNER, size_bytes, function, *args), **limits)


async def until(is_so):
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():
            await asyncio.sleep(0.01)


def lives(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(path, *_):
    """Say in a file which process this is, then wait for nothing."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def pid_in(path):
    return int(path.read_text() or 0) if path.exists() else 0


@pytest.mark.parametrize("size_bytes", SIZES)
def test_nothing_is_read_in_the_server(size_bytes):
    assert call(size_bytes, os.getpid) != os.getpid()


def test_small_documents_share_a_warm_process_and_large_ones_have_their_own():
    async def scenario(pool):
        return [await pool.run(OWNER, size, os.getpid) for size in (0, 0, LARGE_BYTES, LARGE_BYTES)]

    first, second, third, fourth = run(scenario)
    assert first == second
    assert len({first, third, fourth}) == 3


def refuse(detail, count=1):
    raise InvalidConfig(detail, [InvalidField(pointer="/a", detail="b")] * count)


@pytest.mark.parametrize("size_bytes", SIZES)
def test_error_comes_back_whole(size_bytes):
    with pytest.raises(InvalidConfig) as caught:
        call(size_bytes, refuse, "why")
    assert caught.value.detail == "why"
    assert [fault.pointer for fault in caught.value.errors] == ["/a"]


def break_down():
    raise KeyError("ours")


@pytest.mark.parametrize("size_bytes", SIZES)
def test_defect_of_ours_comes_back_with_its_traceback(size_bytes):
    with pytest.raises(DocumentFault, match=r"(?s)break_down.*KeyError: 'ours'"):
        call(size_bytes, break_down)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
@pytest.mark.parametrize("size_bytes", SIZES)
def test_death_of_a_process_is_told_with_its_signal(size_bytes, number):
    with pytest.raises(WorkerDied, match=f"died with {number.name}.*DOCUMENT_MEMORY_BYTES"):
        call(size_bytes, signal.raise_signal, number)


def take(size_bytes):
    return len(bytearray(size_bytes))


@pytest.mark.parametrize("size_bytes", SIZES)
def test_memory_is_limited_and_the_error_says_how_much_and_how_to_raise_it(size_bytes):
    most = 400 << 20
    assert call(size_bytes, take, 300 << 20, document_memory_bytes=most) == 300 << 20
    with pytest.raises(
        TooLarge, match=f"limit of {most:,} bytes .* PALETTERY_LIMIT_DOCUMENT_MEMORY_BYTES"
    ):
        call(size_bytes, take, 401 << 20, document_memory_bytes=most)


@pytest.mark.parametrize("size_bytes", SIZES)
def test_time_is_limited_and_the_error_says_how_much_and_how_to_raise_it(
    size_bytes, tmp_path, monkeypatch
):
    monkeypatch.setattr(document_pool, "QUICK_S", 0.2)
    with pytest.raises(TooLarge, match=r"limit of 0\.5 s.* PALETTERY_LIMIT_DOCUMENT_TIMEOUT_S"):
        call(size_bytes, wait_for, tmp_path / "pid", document_timeout_s=0.5)
    asyncio.run(until(lambda: not lives(pid_in(tmp_path / "pid"))))


def quick_bytes_limit():
    return resource.getrlimit(resource.RLIMIT_AS)[0]


def test_small_document_that_takes_long_begins_anew_among_the_large_ones(tmp_path):
    path = tmp_path / "tries"
    first, second = call(0, limit_of_second_try, path)
    assert first < second


def limit_of_second_try(path):
    with path.open("a") as file:
        file.write(f"{quick_bytes_limit()}\n")
    if len(path.read_text().splitlines()) == 1:
        time.sleep(600)
    return tuple(map(int, path.read_text().split()))


def grow(size_bytes):
    grown.append(os.urandom(size_bytes))
    return os.getpid()


grown = []


def test_process_that_has_grown_gives_its_memory_back():
    async def scenario(pool):
        return [await pool.run(OWNER, 0, grow, size) for size in (64 << 20, 0, 0)]

    large, after, later = run(scenario)
    asyncio.run(until(lambda: not lives(large)))
    assert large != after == later


@pytest.mark.parametrize("size_bytes", SIZES)
def test_process_ends_when_its_client_leaves(size_bytes, tmp_path):
    class Request:
        """What a client is known by; it leaves once its document is being read."""

        async def receive(self):
            await until(lambda: pid_in(tmp_path / "pid"))
            return {"type": "http.disconnect"}

    async def scenario(pool):
        client = DocumentClient("a", Request())
        with pytest.raises(InvalidUpload, match="closed the connection"):
            await pool.run(client, size_bytes, wait_for, tmp_path / "pid")
        assert await pool.run(DocumentClient("b"), size_bytes, str, 1) == "1"
        await until(lambda: not lives(pid_in(tmp_path / "pid")))

    run(scenario)


def test_process_ends_when_its_caller_is_cancelled(tmp_path):
    async def scenario(pool):
        task = asyncio.create_task(pool.run(OWNER, LARGE_BYTES, wait_for, tmp_path / "pid"))
        await until(lambda: pid_in(tmp_path / "pid"))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: not lives(pid_in(tmp_path / "pid")))

    run(scenario)


@pytest.mark.heavy
@pytest.mark.parametrize("owners", [1, 7])
def test_documents_that_take_long_hold_up_nobodys_small_ones(owners, tmp_path):
    """However many owners send them, however they look."""

    async def scenario(pool):
        hostile = [
            asyncio.create_task(
                pool.run(
                    DocumentClient(f"h{owner}"), size, wait_for, tmp_path / f"{owner}{size}{n}"
                )
            )
            for owner in range(owners)
            for size in SIZES
            for n in range(8)
        ]
        await until(lambda: len(list(tmp_path.iterdir())) >= min(3, owners + 1))
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(2):
                assert await pool.run(DocumentClient("b"), 0, str, 1) == "1"
        assert not any(task.done() for task in hostile)
        for task in hostile:
            task.cancel()
        await asyncio.gather(*hostile, return_exceptions=True)

    run(scenario)


def test_one_owner_leaves_a_place_for_large_documents_of_others(tmp_path):
    async def scenario(pool):
        slow = [
            asyncio.create_task(pool.run(OWNER, LARGE_BYTES, wait_for, tmp_path / str(n)))
            for n in range(9)
        ]
        await until(lambda: len(list(tmp_path.iterdir())) == document_pool.SLOW_PROCESSES - 1)
        assert await pool.run(DocumentClient("b"), LARGE_BYTES, str, 1) == "1"
        assert len(list(tmp_path.iterdir())) == document_pool.SLOW_PROCESSES - 1
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    run(scenario)


def test_requests_of_one_owner_that_wait_are_limited(monkeypatch, tmp_path):
    monkeypatch.setattr(document_pool, "MAX_WAITING_PER_OWNER", 2)

    async def scenario(pool):
        slow = [
            asyncio.create_task(pool.run(OWNER, LARGE_BYTES, wait_for, tmp_path / str(n)))
            for n in range(4)
        ]
        await asyncio.sleep(0)
        with pytest.raises(OverQuota, match=r"2 requests of a wait .* send fewer at once"):
            await pool.run(OWNER, LARGE_BYTES, str)
        assert await pool.run(DocumentClient("b"), LARGE_BYTES, str) == ""
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    run(scenario)


def upper(data):
    return data.upper()


@pytest.mark.parametrize("size_bytes", [1, IN_MEMORY_BYTES, IN_MEMORY_BYTES + 1, 8 << 20])
def test_megabytes_go_through_files(size_bytes):
    data = os.urandom(size_bytes)
    answer = run(lambda pool: pool.document(OWNER, 0, upper, SpooledContent(data)))
    assert isinstance(answer, SpooledContent) == (size_bytes > IN_MEMORY_BYTES)
    whole = b"".join(answer.pieces()) if isinstance(answer, SpooledContent) else answer
    assert whole == data.upper()


def test_errors_of_a_process_are_as_many_as_are_listed():
    with pytest.raises(InvalidConfig) as caught:
        call(0, refuse, "why", 10 * MAX_LISTED)
    assert len(caught.value.errors) == MAX_LISTED


SERVER = """
import asyncio, sys
from pathlib import Path
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.settings import Limits
from tests.app.sandbox.test_document_pool import wait_for

async def main():
    pool = DocumentPool(Limits())
    busy = pool.run(DocumentClient("a"), int(sys.argv[2]), wait_for, Path(sys.argv[1]))
    await pool.check()  # so that one waits for its next task
    await busy

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.heavy
@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_every_process_ends_with_the_server(tmp_path, number, size_bytes):
    """However that ends: nothing of it is left to close anything."""
    program = tmp_path / "server.py"
    program.write_text(SERVER)
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, program, tmp_path / "pid", str(size_bytes)],
        env=os.environ | {"PYTHONPATH": str(root)},
        start_new_session=True,
    ) as server:
        asyncio.run(until(lambda: pid_in(tmp_path / "pid")))
        server.send_signal(number)
        server.wait(DEADLINE_S)
        asyncio.run(until(lambda: not group(server.pid)))


def group(leader):
    """Live processes of a process group."""
    pids = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == leader:
                pids.append(int(entry.name))
        except ProcessLookupError:
            continue
    return [pid for pid in pids if lives(pid)]


def test_a_start_that_is_cancelled_in_the_queue_leaves_no_socket_open():
    async def scenario(pool):
        go_on = threading.Event()
        pool._starter.submit(go_on.wait)
        waiting = asyncio.create_task(pool.run(OWNER, 0, str, 1))
        await until(lambda: pool._starter._work_queue.qsize() == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        go_on.set()
        del waiting
        gc.collect()  # a socket that is not closed is a warning here, hence an error

    run(scenario)
