"""Lists of jobs as they change, for any number of readers, at the cost of one look each tick.

A reader holds what it has not been told yet: of each job that changed, how it stands now.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple

from palettery.app.errors import PaletteryError
from palettery.app.events.job_changes import JobChangeRepository, Look, News, Position
from palettery.app.events.stream_limits import STAYS_S
from palettery.schemas.events import GoneJob

LOOK_EVERY_S = 0.5
"""Between two looks at the jobs of those who watch; the most often that a job's progress shows."""
MOST_UNTOLD = 10_000
"""Jobs that a slow reader may have yet to hear of; it has to fetch the list anew then."""

log = logging.getLogger(__name__)


class Told(NamedTuple):
    """Something that a reader is told."""

    kind: Literal["open", "job", "gone"]
    data: str
    """JSON: nothing, a `Job`, or a `GoneJob`."""


OPEN = Told("open", "{}")


class _Reader:
    """Somebody who watches an owner's jobs."""

    def __init__(self, owner: str) -> None:
        self.owner, self.is_over = owner, False
        self.woken = asyncio.Event()
        self._is_open = False
        self._untold: dict[str, Told] = {}
        """By the job's id; no id for that the stream is open."""

    def open(self) -> None:
        """Say that nothing is missed from now on, if that was not said."""
        if not self._is_open:
            self._is_open = True
            self._untold[""] = OPEN
            self.woken.set()

    def tell(self, jobs: Mapping[str, str | None]) -> None:
        """Have it hear how these jobs stand; None if they are gone."""
        for job_id, data in jobs.items():
            if data is None:
                self._untold[job_id] = Told("gone", GoneJob(id=job_id).model_dump_json())
            else:
                self._untold[job_id] = Told("job", data)
        if len(self._untold) > MOST_UNTOLD:
            self.end()
        elif jobs:
            self.woken.set()

    def end(self) -> None:
        """Have it go."""
        self.is_over = True
        self.woken.set()

    def untold(self) -> list[Told]:
        """What it has to be told now."""
        taken, self._untold = self._untold, {}
        self.woken.clear()
        return list(taken.values())


class LiveLists:
    """All readers of this process."""

    def __init__(self, changes: JobChangeRepository) -> None:
        self._changes = changes
        self._readers: set[_Reader] = set()
        self._position: Position | None = None
        self._running: News = {}
        """As they were told last."""
        self._task: asyncio.Task[None] | None = None
        self._is_looking = self._is_closed = False

    async def follow(self, owner: str) -> AsyncIterator[Told]:
        """First that the list can be fetched now, then what changes in it from then on.

        Ends after a while, when too much was missed, or with this process: the list has to be
        fetched anew after each. A database that is away is waited for.
        """
        with self._reading(owner) as reader:
            while not reader.is_over:
                for told in reader.untold():
                    yield told
                await reader.woken.wait()

    async def close(self) -> None:
        """End every stream, now and from now on."""
        self._is_closed = True
        self._end_all()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @contextmanager
    def _reading(self, owner: str) -> Iterator[_Reader]:
        reader = _Reader(owner)
        if self._is_closed:
            reader.end()
        elif self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_on())
        elif self._position and not self._is_looking:
            reader.open()  # else the look that goes on may pass what this owner's jobs become
        self._readers.add(reader)
        stays = asyncio.get_running_loop().call_later(STAYS_S, reader.end)
        try:
            yield reader
        finally:
            stays.cancel()
            self._readers.discard(reader)

    async def _look_on(self) -> None:
        """Take in what is new, as long as somebody watches."""
        self._position, self._running = None, {}
        while self._readers:
            readers = set(self._readers)
            self._is_looking = True
            try:
                found = await asyncio.to_thread(self._look, {each.owner for each in readers})
            except PaletteryError as error:
                log.info("changes will be looked for again: %s", error)
            except Exception:
                log.exception("changes will be looked for again")
            else:
                self._take(found, readers)
            finally:
                self._is_looking = False
            await asyncio.sleep(LOOK_EVERY_S)

    def _look(self, owners: set[str]) -> Look | None:
        return self._changes.look(self._position or self._changes.position(), owners)

    def _take(self, found: Look | None, readers: set[_Reader]) -> None:
        """Have readers hear what was found while they were there."""
        if found is None:
            self._position, self._running = None, {}
            self._end_all()
            return
        for reader in readers:
            reader.open()
            reader.tell(found.changed.get(reader.owner, {}))
            before = self._running.get(reader.owner, {})
            running = found.running.get(reader.owner, {})
            reader.tell({id_: job for id_, job in running.items() if before.get(id_) != job})
        self._position, self._running = found.position, found.running

    def _end_all(self) -> None:
        for reader in self._readers:
            reader.end()
