import asyncio
import email.utils
import time

import pytest
from tenacity import RetryCallState

from palettery.app.client.retries import NOTABLE_WAIT_S, WAIT, Transient, retry_after_s, retrying
from palettery.app.errors import Unavailable


@pytest.mark.parametrize(
    ("header", "expected"), [(None, 0), ("", 0), ("7", 7), ("soon", 0), ("-3", 0), ("²", 0)]
)
def test_retry_after(header, expected):
    assert retry_after_s(header) == expected


def test_retry_after_a_date():
    in_an_hour = email.utils.formatdate(time.time() + 3600, usegmt=True)
    assert 3000 < retry_after_s(in_an_hour) <= 3600
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def waited_s(attempt: int, error: Exception) -> float:
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    state.set_exception((type(error), error, None))
    return WAIT(state)


def test_waits_grow_are_bounded_and_heed_the_server():
    lost = Transient(Unavailable("lost"))
    waits = [waited_s(attempt, lost) for attempt in range(1, 11)]
    assert waits[0] < 1 < waits[4] < waits[6] <= 11
    assert max(waits) <= 10.5
    assert waited_s(1, Transient(Unavailable("busy"), retry_after_s=30)) >= 30


@pytest.mark.parametrize(
    ("wait_s", "messages"), [(0, []), (NOTABLE_WAIT_S, ["busy; trying again in"])]
)
def test_long_waits_are_told(caplog, wait_s, messages):
    retry = retrying(lambda: 2, is_repeatable=True)
    slept = []

    async def busy():
        raise Transient(Unavailable("busy"), retry_after_s=wait_s)

    async def sleep(seconds):
        slept.append(seconds)

    retry.sleep = sleep
    with pytest.raises(Transient):
        asyncio.run(retry(busy))
    assert len(slept) == 1
    assert slept[0] >= wait_s
    assert [message.rpartition(" in")[0] + " in" for message in caplog.messages] == messages


def test_waits_come_to_an_end():
    retry = retrying(lambda: 1000, is_repeatable=True)
    slept = []

    async def busy():
        raise Transient(Unavailable("busy"), retry_after_s=30)

    async def sleep(seconds):
        slept.append(seconds)

    retry.sleep = sleep
    with pytest.raises(Transient):
        asyncio.run(retry(busy))
    assert len(slept) == 3
