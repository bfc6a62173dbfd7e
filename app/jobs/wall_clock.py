"""Have Dask go on where somebody sets the clock back.

Dask holds messages back until a moment of the wall clock, milliseconds ahead, and tornado calls
back at such moments. Where the clock is set back meanwhile, that moment is as far ahead as it was
set back, and until then nothing is sent.
Source: distributed 2026.8, `BatchedSend._background_send`; tornado 6.5, `PeriodicCallback`.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable

from distributed.batched import BatchedSend
from tornado.ioloop import PeriodicCallback

LOOK_EVERY_S = 1.0
MOST_BACK_S = 0.5
"""Which nobody needs to hear of: what is late is late by no more."""

log = logging.getLogger(__name__)


async def watch(wall: Callable[[], float] = time.time) -> None:
    """Look at the clock for as long as Dask works in this thread."""
    ahead = wall() - time.monotonic()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        before, ahead = ahead, wall() - time.monotonic()
        if ahead < before - MOST_BACK_S:
            log.warning("the clock was set back by %.0f s", before - ahead)
            go_on()


def go_on() -> None:
    """Have all that waits for a moment of the clock wait from now on."""
    is_frozen = gc.get_freeze_count() > 0
    gc.unfreeze()  # frozen objects are not listed
    for found in gc.get_objects():
        kind = type(found)  # `isinstance` would ask some objects, which then do things
        if issubclass(kind, BatchedSend):
            found.next_deadline = None
            found.waker.set()
        elif issubclass(kind, PeriodicCallback) and found.is_running():
            found.stop()
            found.start()
    if is_frozen:
        gc.freeze()
