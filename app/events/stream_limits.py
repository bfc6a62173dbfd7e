"""How many may follow what happens at once, and for how long."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from palettery.app.errors import TooManyStreams
from palettery.app.settings import Clients

STAYS_S = 600.0
"""How long a reader stays before it has to come again, with a key that is still valid."""


class StreamLimits:
    """Streams of this process that are open: so many of one owner, and so many in all."""

    def __init__(self, clients: Clients) -> None:
        self._most_of_owner = clients.owner_streams
        self._most = max(1, clients.connections // 2)  # the others are for requests that end
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, owner: str) -> Iterator[None]:
        """A place for one stream, given back at the end of the block.

        Raises:
            TooManyStreams: there is none left; says whether for this owner or for anyone.
        """
        if self._taken[owner] >= self._most_of_owner:
            raise TooManyStreams(
                f"the owner has {self._taken[owner]:,} event streams open here, and may have "
                f"{self._most_of_owner:,}; close some, or follow all jobs in one, GET /v1/events"
            )
        if (open_now := self._taken.total()) >= self._most:
            raise TooManyStreams(
                f"{open_now:,} event streams are open here, the most allowed; try again later, "
                "or ask for the job now and then, GET /v1/jobs/{id}"
            )
        self._taken[owner] += 1
        try:
            yield
        finally:
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]
