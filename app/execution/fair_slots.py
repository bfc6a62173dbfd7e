"""Share what workers can take at once fairly among owners.

Every free slot goes to the owner with the fewest tasks under way for its weight, of those to the
one that got its last slot longest ago; of an owner's jobs to the most urgent one, of those to the
oldest. So an owner's jobs end one after the other, and owners are served side by side.
"""

import asyncio
import heapq
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import NamedTuple

from palettery.app.http.caller import LOCAL


class Share(NamedTuple):
    """On whose behalf tasks are run."""

    owner: str = LOCAL
    priority: int = 0
    """Among the owner's own jobs; high ones first."""
    job_id: str = ""
    """Of jobs of one priority, the lesser one goes first."""


class FairSlots:
    """Slots for tasks, as many as `limit` tells whenever one is taken or given back."""

    def __init__(
        self, limit: Callable[[], int], weights: Mapping[str, float] | None = None
    ) -> None:
        self._limit, self._weights = limit, weights or {}
        self._waiting: dict[str, list[tuple[int, str, int, asyncio.Future[None]]]] = {}
        self._taken: Counter[str] = Counter()
        self._last: dict[str, int] = {}
        """When an owner that has slots, or waits for some, got the last one."""
        self._order = count()

    @asynccontextmanager
    async def one(self, share: Share) -> AsyncIterator[None]:
        """Hold a slot for the length of the block."""
        got = asyncio.get_running_loop().create_future()
        mine = self._waiting.setdefault(share.owner, [])
        heapq.heappush(mine, (-share.priority, share.job_id, next(self._order), got))
        self._hand_out()
        try:
            await got
            yield
        finally:
            if got.done() and not got.cancelled():
                self._taken[share.owner] -= 1
            self._hand_out()
            if not self._taken[share.owner] and share.owner not in self._waiting:
                del self._taken[share.owner]
                self._last.pop(share.owner, None)

    def _hand_out(self) -> None:
        """Give free slots to those who wait."""
        for owner in list(self._waiting):
            self._drop_cancelled(owner)
        while self._waiting and self._taken.total() < self._limit():
            owner = min(self._waiting, key=self._claim)
            *_, got = heapq.heappop(self._waiting[owner])
            got.set_result(None)
            self._taken[owner] += 1
            self._last[owner] = next(self._order)
            self._drop_cancelled(owner)

    def _claim(self, owner: str) -> tuple[float, int]:
        return self._taken[owner] / self._weights.get(owner, 1.0), self._last.get(owner, -1)

    def _drop_cancelled(self, owner: str) -> None:
        """Drop those who wait no more, and the owner when nobody is left."""
        waiting = self._waiting[owner]
        while waiting and waiting[0][-1].cancelled():
            heapq.heappop(waiting)
        if not waiting:
            del self._waiting[owner]
