"""Streams of the changes in owners' lists of jobs, for any number of readers.

One poll serves all readers. A reader's queue holds the latest state of each job that changed since
its last read.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple

from palettery.app.errors import PaletteryError
from palettery.app.events.job_changes import (
    ChangePosition,
    JobChangeRepository,
    JobChanges,
    JobsByOwner,
)
from palettery.app.events.stream_limits import STREAM_LIFETIME_S
from palettery.schemas.events import DeletedJob

POLL_INTERVAL_S = 0.5
"""Time between two polls, and so the minimum time between two updates of a job's progress."""
MAX_PENDING_JOBS = 10_000
"""Maximum number of jobs in a reader's queue; if it is exceeded, the reader's stream ends."""

log = logging.getLogger(__name__)


class ListEvent(NamedTuple):
    """A change in a list of jobs."""

    kind: Literal["open", "job", "gone"]
    data: str
    """JSON: an empty object, a `Job`, or a `DeletedJob`."""


OPEN = ListEvent("open", "{}")


class _Reader:
    """A reader of one owner's list."""

    def __init__(self, owner: str) -> None:
        self.owner, self.is_over = owner, False
        self.wake_event = asyncio.Event()
        self._is_open = False
        self._pending: dict[str, ListEvent] = {}
        """Pending events by the job's id; the key of the `open` event is empty."""

    def open(self) -> None:
        """Queue the `open` event, once: no change is missed from now on."""
        if not self._is_open:
            self._is_open = True
            self._pending[""] = OPEN
            self.wake_event.set()

    def send(self, jobs: Mapping[str, str | None]) -> None:
        """Add these jobs to the queue; None stands for a deleted job."""
        for job_id, data in jobs.items():
            if data is None:
                self._pending[job_id] = ListEvent("gone", DeletedJob(id=job_id).model_dump_json())
            else:
                self._pending[job_id] = ListEvent("job", data)
        if len(self._pending) > MAX_PENDING_JOBS:
            self.end()
        elif jobs:
            self.wake_event.set()

    def end(self) -> None:
        """End the stream."""
        self.is_over = True
        self.wake_event.set()

    def take(self) -> list[ListEvent]:
        """Empty the queue and return its events."""
        pending, self._pending = self._pending, {}
        self.wake_event.clear()
        return list(pending.values())


class ListStreams:
    """All readers of this process."""

    def __init__(self, changes: JobChangeRepository) -> None:
        self._changes = changes
        self._readers: set[_Reader] = set()
        self._position: ChangePosition | None = None
        self._running: JobsByOwner = {}
        """Running jobs as they were sent last."""
        self._task: asyncio.Task[None] | None = None
        self._is_polling = self._is_closed = False

    async def follow(self, owner: str) -> AsyncIterator[ListEvent]:
        """Yield `open` once the list can be fetched, then every change from then on.

        The stream ends after a while, when the reader is too slow, or with this process; its client
        has to fetch the list again then. The stream waits while the database is unavailable.
        """
        with self._add_reader(owner) as reader:
            while not reader.is_over:
                for event in reader.take():
                    yield event
                await reader.wake_event.wait()

    async def close(self) -> None:
        """End every stream, now and from now on."""
        self._is_closed = True
        self._end_all()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @contextmanager
    def _add_reader(self, owner: str) -> Iterator[_Reader]:
        reader = _Reader(owner)
        if self._is_closed:
            reader.end()
        elif self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll_while_read())
        elif self._position and not self._is_polling:
            reader.open()  # but not during a poll, which may leave out this owner's jobs
        self._readers.add(reader)
        timeout = asyncio.get_running_loop().call_later(STREAM_LIFETIME_S, reader.end)
        try:
            yield reader
        finally:
            timeout.cancel()
            self._readers.discard(reader)

    async def _poll_while_read(self) -> None:
        """Poll for changes as long as there are readers."""
        self._position, self._running = None, {}
        while self._readers:
            readers = set(self._readers)
            self._is_polling = True
            try:
                changes = await asyncio.to_thread(self._poll, {reader.owner for reader in readers})
            except PaletteryError as error:
                log.info("polling for changes of jobs is retried: %s", error)
            except Exception:
                log.exception("polling for changes of jobs is retried")
            else:
                self._send(changes, readers)
            finally:
                self._is_polling = False
            await asyncio.sleep(POLL_INTERVAL_S)

    def _poll(self, owners: set[str]) -> JobChanges | None:
        position = self._position or self._changes.latest_position()
        return self._changes.changes_since(position, owners)

    def _send(self, changes: JobChanges | None, readers: set[_Reader]) -> None:
        """Send changes to those who were readers when the poll began."""
        if changes is None:
            self._position, self._running = None, {}
            self._end_all()
            return
        for reader in readers:
            reader.open()
            reader.send(changes.changed.get(reader.owner, {}))
            previous = self._running.get(reader.owner, {})
            running = changes.running.get(reader.owner, {})
            reader.send({id_: job for id_, job in running.items() if previous.get(id_) != job})
        self._position, self._running = changes.position, changes.running

    def _end_all(self) -> None:
        for reader in self._readers:
            reader.end()
