"""A semaphore shared fairly between owners."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class _Queue:
    """Waiting requests of one owner, oldest first."""

    waiting: deque["asyncio.Future[None]"] = field(default_factory=deque)
    last_turn: int = 0
    """Number of its latest turn; owners with an older one come first. 0 before its first."""

    def is_waiting(self) -> bool:
        """Return whether any request waits, after dropping cancelled ones."""
        while self.waiting and self.waiting[0].done():
            self.waiting.popleft()
        return bool(self.waiting)


class FairSemaphore:
    """A semaphore of which one owner can hold at most all places but one.

    A free place goes to the owner that holds the fewest; among equals, to the one whose last turn
    was longest ago. So a new owner waits for only one place to become free, whatever the queues.
    """

    def __init__(self, places: int) -> None:
        self._free, self._max_per_owner = places, max(1, places - 1)
        self._num_held: Counter[str] = Counter()
        self._queues: dict[str, _Queue] = {}
        self._turns = 0

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Hold a place for an owner during the block."""
        queue = self._queues.setdefault(owner, _Queue())
        granted = asyncio.get_running_loop().create_future()
        queue.waiting.append(granted)
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                with suppress(ValueError):  # it may have been dropped already
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
        """Return how many requests of an owner wait for a place."""
        queue = self._queues.get(owner)
        return len(queue.waiting) if queue else 0

    def __len__(self) -> int:
        """Number of owners that hold a place or wait for one."""
        return len(self._queues)

    def _release(self, owner: str) -> None:
        self._free += 1
        self._num_held[owner] -= 1
        self._grant()
        self._forget(owner)

    def _grant(self) -> None:
        """Assign free places to waiting requests, in the order that the class describes."""
        while self._free:
            candidates = [
                owner
                for owner, queue in self._queues.items()
                if queue.is_waiting() and self._num_held[owner] < self._max_per_owner
            ]
            if not candidates:
                return
            owner = min(
                candidates, key=lambda name: (self._num_held[name], self._queues[name].last_turn)
            )
            self._turns += 1
            queue = self._queues[owner]
            queue.last_turn = self._turns
            self._num_held[owner] += 1
            self._free -= 1
            queue.waiting.popleft().set_result(None)

    def _forget(self, owner: str) -> None:
        """Drop the state of an owner that neither waits nor holds a place."""
        queue = self._queues.get(owner)
        if queue is not None and not self._num_held[owner] and not queue.is_waiting():
            del self._num_held[owner], self._queues[owner]
