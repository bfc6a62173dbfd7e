"""A monotonic clock for Dask's timers.

tornado's timers and Dask's message batches wait until a time of the wall clock, milliseconds
ahead. If the clock is set back meanwhile, the wait grows by as much, and nothing is sent until
then. With a clock that only moves forward this cannot happen.
Source: tornado 6.6, `IOLoop.time` and `PeriodicCallback`; distributed 2026.8, `BatchedSend`.
"""

import time

from distributed import batched
from tornado.ioloop import IOLoop

_START_S = time.time() - time.monotonic()


def steady_time() -> float:
    """Return seconds since 1970, by the wall clock at the start of this process."""
    return _START_S + time.monotonic()


def use_steady_clock(loop: IOLoop | None = None) -> None:
    """Set the clock of all message batches and of the timers of this or the running loop."""
    vars(loop or IOLoop.current())["time"] = steady_time
    vars(batched)["time"] = steady_time
