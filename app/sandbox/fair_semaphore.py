"""A semaphore that many owners share, and none of them can have for itself."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class _Queue:
    """Requests of one owner that wait, the first one first."""

    waiting: deque["asyncio.Future[None]"] = field(default_factory=deque)
    served: int = 0
    """Number of its newest turn, by which owners take turns; 0 before its first."""

    def is_waiting(self) -> bool:
        """Whether there are any, without those that were cancelled."""
        while self.waiting and self.waiting[0].done():
            self.waiting.popleft()
        return bool(self.waiting)


class FairSemaphore:
    """Places of which one owner takes all but one at most, unless there is only one.

    A free place goes to the owner that holds fewest; among equals, to the one whose last turn is
    longest ago. So whoever comes new waits for one place to get free, however much others wait for.
    """

    def __init__(self, places: int) -> None:
        self._free, self._most_of_one = places, max(1, places - 1)
        self._taken: Counter[str] = Counter()
        self._queues: dict[str, _Queue] = {}
        self._turns = 0

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Hold a place for an owner in the block."""
        queue = self._queues.setdefault(owner, _Queue())
        granted = asyncio.get_running_loop().create_future()
        queue.waiting.append(granted)
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                with suppress(ValueError):  # it may have been passed over
                    queue.waiting.remove(granted)
                self._forget(owner)
            else:
                self._release(owner)
            raise
        try:
            yield
        finally:
            self._release(owner)

    def waiting(self, owner: str) -> int:
        """How many of an owner's requests wait for a place."""
        queue = self._queues.get(owner)
        return len(queue.waiting) if queue else 0

    def __len__(self) -> int:
        """Number of owners that hold a place or wait for one."""
        return len(self._queues)

    def _release(self, owner: str) -> None:
        self._free += 1
        self._taken[owner] -= 1
        self._grant()
        self._forget(owner)

    def _grant(self) -> None:
        """Give free places to those whose turn it is."""
        while self._free:
            entitled = [
                owner
                for owner, queue in self._queues.items()
                if queue.is_waiting() and self._taken[owner] < self._most_of_one
            ]
            if not entitled:
                return
            owner = min(entitled, key=lambda each: (self._taken[each], self._queues[each].served))
            self._turns += 1
            queue = self._queues[owner]
            queue.served = self._turns
            self._taken[owner] += 1
            self._free -= 1
            queue.waiting.popleft().set_result(None)

    def _forget(self, owner: str) -> None:
        """Drop what is known of an owner that neither waits nor holds a place."""
        queue = self._queues.get(owner)
        if queue is not None and not self._taken[owner] and not queue.is_waiting():
            del self._taken[owner], self._queues[owner]
