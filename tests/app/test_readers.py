"""What is large is read in a process of its own."""

import asyncio
import os
import signal

import pytest

from app.errors import InvalidConfig, WorkerDied
from app.readers import LARGE_BYTES, Readers
from schemas.problem import InvalidField


def run(size_bytes, function, *args):
    return asyncio.run(Readers().run(size_bytes, function, *args))


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
