"""Streams of the events of single jobs, for any number of readers.

One poll serves all readers. A reader has no queue, only the number of its last event; a slow reader
gets the events that it missed from the database.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from palettery.app.errors import PaletteryError
from palettery.app.events.repository import EventRepository, JobSnapshot, StoredEvent
from palettery.app.events.stream_limits import STREAM_LIFETIME_S
from palettery.schemas.jobs import Progress

POLL_INTERVAL_S = 0.2
"""Time between two polls for the jobs that have readers."""
PAGE_EVENTS = 100
"""Maximum number of events that a reader fetches at a time."""
CACHED_EVENTS = 64
"""Number of events of a job that are cached for all its readers."""

log = logging.getLogger(__name__)


@dataclass
class _WatchedJob:
    """A job that has readers."""

    snapshot: JobSnapshot | None
    """The latest snapshot; None once the job is deleted."""
    readers: int = 0
    recent: deque[StoredEvent] = field(default_factory=lambda: deque(maxlen=CACHED_EVENTS))
    """The newest events, without gaps."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the next change; replaced by a new one then."""

    def update(self, snapshot: JobSnapshot | None, events: Sequence[StoredEvent] = ()) -> None:
        """Store the job's present state and wake its readers; None if it was deleted."""
        if snapshot == self.snapshot:
            return
        self.snapshot = snapshot
        for event in events:
            if self.recent and event.number != self.recent[-1].number + 1:
                self.recent.clear()
            self.recent.append(event)
        self.wake()

    def wake(self) -> None:
        """Wake all readers."""
        self.changed.set()
        self.changed = asyncio.Event()

    def cached(self, number: int) -> Sequence[StoredEvent]:
        """Return the events after that number; none if the next one is not cached."""
        if not self.recent or self.recent[0].number > number + 1:
            return ()
        return [event for event in self.recent if event.number > number]


class JobStreams:
    """All readers of this process."""

    def __init__(self, events: EventRepository) -> None:
        self._events = events
        self._watched: dict[str, _WatchedJob] = {}
        self._poll_task: asyncio.Task[None] | None = None
        self._is_closed = False

    async def follow(
        self, job_id: str, number: int, snapshot: JobSnapshot
    ) -> AsyncIterator[StoredEvent | Progress]:
        """Yield a job's events after that number, then new ones, and its progress in between.

        The stream ends with the job, after a while, or with this process. It waits while the
        database is unavailable.
        """
        time = asyncio.get_running_loop().time
        end_time = time() + STREAM_LIFETIME_S
        sent: Progress | None = None
        with self._watch(job_id, snapshot) as job:
            while not self._is_closed and (snapshot_now := job.snapshot) and time() < end_time:
                changed = job.changed
                if number < snapshot_now.newest:
                    page = await self._page(job_id, number, job)
                    if page is not None and not page:
                        return  # deleted meanwhile
                    for event in page or ():
                        yield event
                        number = event.number
                    continue
                if snapshot_now.has_ended:
                    return
                if snapshot_now.progress != sent:
                    sent = snapshot_now.progress
                    yield sent
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(end_time):
                        await changed.wait()

    async def close(self) -> None:
        """End every stream, now and from now on."""
        self._is_closed = True
        for job in self._watched.values():
            job.wake()
        if self._poll_task is not None:
            self._poll_task.cancel()
            await asyncio.gather(self._poll_task, return_exceptions=True)

    @contextmanager
    def _watch(self, job_id: str, snapshot: JobSnapshot) -> Iterator[_WatchedJob]:
        job = self._watched.setdefault(job_id, _WatchedJob(snapshot))
        if job.snapshot and job.snapshot.newest < snapshot.newest:
            job.update(snapshot)
        job.readers += 1
        if not self._is_closed and (self._poll_task is None or self._poll_task.done()):
            self._poll_task = asyncio.create_task(self._poll_while_watched())
        try:
            yield job
        finally:
            job.readers -= 1
            if not job.readers:
                del self._watched[job_id]

    async def _page(
        self, job_id: str, number: int, job: _WatchedJob
    ) -> Sequence[StoredEvent] | None:
        """Return events after that number; None if the database is unavailable."""
        cached = job.cached(number)
        if cached:
            return cached
        try:
            return await asyncio.to_thread(self._events.after, job_id, number, PAGE_EVENTS)
        except PaletteryError as error:
            log.info("a stream of events waits: %s", error)
            await asyncio.sleep(POLL_INTERVAL_S)
            return None

    async def _poll_while_watched(self) -> None:
        """Poll for updates as long as there are readers."""
        while self._watched:
            await asyncio.sleep(POLL_INTERVAL_S)
            seen = {
                job_id: job.snapshot.newest for job_id, job in self._watched.items() if job.snapshot
            }
            try:
                updates = await asyncio.to_thread(self._events.updates, seen)
            except PaletteryError as error:
                log.info("polling for events is retried: %s", error)
            except Exception:
                log.exception("polling for events is retried")
            else:
                for job_id in seen.keys() & self._watched.keys():
                    self._watched[job_id].update(*updates.get(job_id, (None, ())))
