"""Have Dask's timers follow a clock that nobody sets.

tornado's timers and Dask's message batches wait until a moment of the wall clock, milliseconds
ahead. When somebody sets that clock back meanwhile, the moment is as far ahead as it was set back,
and until then nothing is sent. With a clock that only moves forward this cannot happen.
Source: tornado 6.6, `IOLoop.time` and `PeriodicCallback`; distributed 2026.8, `BatchedSend`.
"""

import time

from distributed import batched
from tornado.ioloop import IOLoop

_START_S = time.time() - time.monotonic()


def steady_time() -> float:
    """Seconds since 1970 by the wall clock as it was at the start of this process."""
    return _START_S + time.monotonic()


def use_steady_clock(loop: IOLoop | None = None) -> None:
    """Have a loop's timers, the running one's if none is named, and all batches use it."""
    vars(loop or IOLoop.current())["time"] = steady_time
    vars(batched)["time"] = steady_time
