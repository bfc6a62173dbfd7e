"""Fair scheduling of task slots among owners.

A free slot goes to the owner with the fewest running tasks for its weight; of several, to the one
that got its last slot longest ago. Of an owner's jobs, the one with the highest priority goes
first; of several, the oldest. So owners are served side by side, and an owner's jobs one by one.
"""

import asyncio
import heapq
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import NamedTuple

from palettery.app.http.caller import LOCAL


class SlotRequest(NamedTuple):
    """The owner and the job that need a slot."""

    owner: str = LOCAL
    priority: int = 0
    """Priority among the owner's jobs; high ones go first."""
    job_id: str = ""
    """Among jobs of the same priority, lower ids go first."""


class FairSlots:
    """Slots for tasks; `limit` returns their number, and is called at every change."""

    def __init__(
        self, limit: Callable[[], int], weights: Mapping[str, float] | None = None
    ) -> None:
        self._limit, self._weights = limit, weights or {}
        self._waiting: dict[str, list[tuple[int, str, int, asyncio.Future[None]]]] = {}
        self._taken: Counter[str] = Counter()
        self._last: dict[str, int] = {}
        """Owner that has slots or waits for some -> order number of its last slot."""
        self._order = count()

    @asynccontextmanager
    async def slot(self, request: SlotRequest) -> AsyncIterator[None]:
        """Wait for a slot and take it until the end of the block."""
        granted = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(request.owner, [])
        heapq.heappush(queue, (-request.priority, request.job_id, next(self._order), granted))
        self._grant()
        try:
            await granted
            yield
        finally:
            if granted.done() and not granted.cancelled():
                self._taken[request.owner] -= 1
            self._grant()
            if not self._taken[request.owner] and request.owner not in self._waiting:
                del self._taken[request.owner]
                self._last.pop(request.owner, None)

    def _grant(self) -> None:
        """Grant free slots to waiting requests."""
        for owner in list(self._waiting):
            self._drop_cancelled(owner)
        while self._waiting and self._taken.total() < self._limit():
            owner = min(self._waiting, key=self._rank)
            *_, granted = heapq.heappop(self._waiting[owner])
            granted.set_result(None)
            self._taken[owner] += 1
            self._last[owner] = next(self._order)
            self._drop_cancelled(owner)

    def _rank(self, owner: str) -> tuple[float, int]:
        return self._taken[owner] / self._weights.get(owner, 1.0), self._last.get(owner, -1)

    def _drop_cancelled(self, owner: str) -> None:
        """Drop cancelled requests, and the owner if none is left."""
        waiting = self._waiting[owner]
        while waiting and waiting[0][-1].cancelled():
            heapq.heappop(waiting)
        if not waiting:
            del self._waiting[owner]
