"""Events as they happen, for any number of readers, at the cost of one look each tick.

A reader holds no queue: it is a number, and what it missed while it was slow lies in the database.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from palettery.app.errors import PaletteryError
from palettery.app.events.repository import EventRepository, Standing, StoredEvent
from palettery.app.events.stream_limits import STAYS_S
from palettery.schemas.jobs import Progress

LOOK_EVERY_S = 0.2
"""Between two looks at the jobs that somebody watches."""
PAGE = 100
"""Events that a reader fetches at once."""
RECENT = 64
"""Events of a watched job that are held for all its readers."""

log = logging.getLogger(__name__)


@dataclass
class _Watched:
    """A job that has readers."""

    standing: Standing | None
    """As last seen; None once the job is no more."""
    readers: int = 0
    recent: deque[StoredEvent] = field(default_factory=lambda: deque(maxlen=RECENT))
    """The newest events that came in one after the other."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the next change, for those that took it before."""

    def take(self, standing: Standing | None, events: Sequence[StoredEvent] = ()) -> None:
        """Have readers see how the job stands now; None if it was deleted."""
        if standing == self.standing:
            return
        self.standing = standing
        for event in events:
            if self.recent and event.number != self.recent[-1].number + 1:
                self.recent.clear()
            self.recent.append(event)
        self.wake()

    def wake(self) -> None:
        """Have readers look again."""
        self.changed.set()
        self.changed = asyncio.Event()

    def held(self, number: int) -> Sequence[StoredEvent]:
        """Events right behind that number; none if they are not held here."""
        if not self.recent or self.recent[0].number > number + 1:
            return ()
        return [event for event in self.recent if event.number > number]


class EventStreams:
    """All readers of this process."""

    def __init__(self, events: EventRepository) -> None:
        self._events = events
        self._watched: dict[str, _Watched] = {}
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    async def follow(
        self, job_id: str, number: int, standing: Standing
    ) -> AsyncIterator[StoredEvent | Progress]:
        """A job's events behind that number, then those that happen, and its progress meanwhile.

        Ends with the job, after a while, or with this process; a database that is away is waited
        for.
        """
        time = asyncio.get_running_loop().time
        until = time() + STAYS_S
        shown: Progress | None = None
        with self._watching(job_id, standing) as watched:
            while not self._is_closed and (now := watched.standing) and time() < until:
                changed = watched.changed
                if number < now.newest:
                    page = await self._page(job_id, number, watched)
                    if page is not None and not page:
                        return  # deleted meanwhile
                    for event in page or ():
                        yield event
                        number = event.number
                    continue
                if now.has_ended:
                    return
                if now.progress != shown:
                    shown = now.progress
                    yield shown
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await changed.wait()

    async def close(self) -> None:
        """End every stream, now and from now on."""
        self._is_closed = True
        for watched in self._watched.values():
            watched.wake()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    @contextmanager
    def _watching(self, job_id: str, standing: Standing) -> Iterator[_Watched]:
        watched = self._watched.setdefault(job_id, _Watched(standing))
        if watched.standing and watched.standing.newest < standing.newest:
            watched.take(standing)
        watched.readers += 1
        if not self._is_closed and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look())
        try:
            yield watched
        finally:
            watched.readers -= 1
            if not watched.readers:
                del self._watched[job_id]

    async def _page(
        self, job_id: str, number: int, watched: _Watched
    ) -> Sequence[StoredEvent] | None:
        """Events behind that number; None if nobody can tell now."""
        held = watched.held(number)
        if held:
            return held
        try:
            return await asyncio.to_thread(self._events.after, job_id, number, PAGE)
        except PaletteryError as error:
            log.info("a reader waits: %s", error)
            await asyncio.sleep(LOOK_EVERY_S)
            return None

    async def _look(self) -> None:
        """Take in what is new, as long as somebody watches."""
        while self._watched:
            await asyncio.sleep(LOOK_EVERY_S)
            seen = {
                job_id: watched.standing.newest
                for job_id, watched in self._watched.items()
                if watched.standing
            }
            try:
                news = await asyncio.to_thread(self._events.news, seen)
            except PaletteryError as error:
                log.info("events will be looked for again: %s", error)
            except Exception:
                log.exception("events will be looked for again")
            else:
                for job_id in seen.keys() & self._watched.keys():
                    self._watched[job_id].take(*news.get(job_id, (None, ())))
