"""Limits on event streams: how many may be open at once, and for how long.

The heartbeat of silent streams is that of FastAPI, every 15 seconds.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from palettery.app.errors import TooManyStreams
from palettery.app.settings import Clients

STREAM_LIFETIME_S = 600.0
"""Time after which a stream ends, so that its client reconnects with a key that is still valid."""


class StreamLimits:
    """Counts the open streams of this process, per owner and in total."""

    def __init__(self, clients: Clients) -> None:
        self._max_per_owner = clients.owner_streams
        self._max_total = max(1, clients.connections // 2)  # the others are for ordinary requests
        self._open: Counter[str] = Counter()

    @contextmanager
    def slot(self, owner: str) -> Iterator[None]:
        """Reserve a slot for one stream until the end of the block.

        Raises:
            TooManyStreams: no slot is free, for this owner or for anyone; the message says which.
        """
        if self._open[owner] >= self._max_per_owner:
            raise TooManyStreams(
                f"the owner has {self._open[owner]:,} event streams open here, and may have "
                f"{self._max_per_owner:,}; close some, or follow all jobs in one, GET /v1/events"
            )
        if (num_open := self._open.total()) >= self._max_total:
            raise TooManyStreams(
                f"{num_open:,} event streams are open here, the most allowed; try again later, "
                "or ask for the job now and then, GET /v1/jobs/{id}"
            )
        self._open[owner] += 1
        try:
            yield
        finally:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]
