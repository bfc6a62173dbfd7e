"""Readers of events in one process: each sees everything once, in order, whatever its pace."""

import asyncio
import itertools
import json

import pytest

from palettery.app.errors import DatabaseFailed, StorageFull, problem
from palettery.app.events import job_streams as module
from palettery.app.events.job_streams import CACHED_EVENTS, PAGE_EVENTS, JobStreams
from palettery.app.events.log_messages import LogMessage
from palettery.app.events.repository import EventRepository
from palettery.app.jobs.job_rows import NewJob
from palettery.schemas.jobs import Progress
from tests.app.events.timed import TIMEOUT_S, run, until
from tests.databases import KINDS_IN_HEAVY

pytestmark = pytest.mark.databases(*KINDS_IN_HEAVY)

numbers = itertools.count()
WHY = problem(StorageFull("the store is full"))


class Faulty(EventRepository):
    """Events of a database that is unavailable while `is_away`."""

    is_away = False
    polls = 0

    def updates(self, seen):
        self.polls += 1
        self._check()
        return super().updates(seen)

    def after(self, *arguments):
        self._check()
        return super().after(*arguments)

    def _check(self):
        if self.is_away:
            raise DatabaseFailed("the database is away")


@pytest.fixture
def events(database):
    return Faulty(database)


def add(records):
    job_id = f"01890a5d-ac96-774b-bcce-{next(numbers):012x}"
    return records.add(NewJob(job_id, "m", 1, Progress())).id


class Reader:
    """Follows a job, and collects its events."""

    def __init__(self, streams, events, job_id, number=0):
        self.ids, self.kinds, self.progress = [], [], []
        self._stream = streams.follow(job_id, number, events.snapshots([job_id])[job_id])
        self.task = None

    async def __call__(self):
        async for event in self._stream:
            if isinstance(event, Progress):
                self.progress.append(event.tensors_done)
            else:
                self.ids.append(event.number)
                data = json.loads(event.data)
                self.kinds.append(data.get("state") or data["message"])

    def start(self):
        self.task = asyncio.create_task(self())
        return self

    async def ended(self):
        await asyncio.wait_for(self.task, TIMEOUT_S)
        return self


def test_readers_see_all_that_was_and_all_that_comes(records, events):
    async def main():
        streams, job_id = JobStreams(events), add(records)
        first = Reader(streams, events, job_id).start()
        await until(lambda: first.progress)
        records.start(job_id)
        second = Reader(streams, events, job_id).start()
        records.advance(job_id, Progress(tensors_done=2))
        await until(lambda: 2 in first.progress + second.progress)
        records.succeed(job_id, 7)
        last = Reader(streams, events, job_id, 3).start()
        for reader in (first, second, last):
            await reader.ended()
            assert reader.kinds[-1] == "succeeded"
        assert first.ids == second.ids == list(range(1, len(first.ids) + 1))
        assert last.ids == first.ids[3:]
        assert last.progress == [], "it has ended already"
        assert streams._watched == {}

    run(main)


def test_end_is_sent_after_a_failure_that_was_retried(records, events):
    async def main():
        streams, job_id = JobStreams(events), add(records)
        records.fail(job_id, WHY)
        records.retry(job_id)
        reader = Reader(streams, events, job_id).start()
        await until(lambda: reader.progress)
        assert "failed" in reader.kinds
        records.cancel(job_id)
        await reader.ended()
        assert [kind for kind in reader.kinds if " " not in kind] == [
            "queued", "failed", "queued", "cancelled", "cancelled"
        ]  # fmt: skip

    run(main)


def test_slow_reader_misses_nothing(records, events):
    async def main():
        streams, job_id = JobStreams(events), add(records)
        follow = streams.follow(job_id, 0, events.snapshots([job_id])[job_id])
        quick = Reader(streams, events, job_id).start()
        seen = [(await anext(follow)).number]
        for batch in range(5):  # more than is cached, and more than is fetched at once
            events.log(job_id, *(LogMessage(f"{batch} {n}") for n in range(CACHED_EVENTS)))
            await until(lambda: len(quick.ids) == 2 + CACHED_EVENTS * (batch + 1))  # noqa: B023
        assert CACHED_EVENTS * 5 > PAGE_EVENTS
        records.cancel(job_id)
        await quick.ended()
        seen += [event.number async for event in follow if not isinstance(event, Progress)]
        assert seen == quick.ids == list(range(1, len(seen) + 1))

    run(main)


def test_streams_wait_while_the_database_is_unavailable(records, events):
    async def main():
        streams, job_id = JobStreams(events), add(records)
        early = Reader(streams, events, job_id).start()
        late = Reader(streams, events, job_id)
        await until(lambda: early.progress)
        events.is_away = True
        late.start()
        polls = events.polls
        await until(lambda: events.polls > polls + 2)
        records.start(job_id)
        records.cancel(job_id)
        events.is_away = False
        await early.ended()
        await late.ended()
        assert early.ids == late.ids == list(range(1, 7))

    run(main)


def test_deleted_job_ends_its_streams(records, events):
    async def main():
        streams, job_id, other = JobStreams(events), add(records), add(records)
        staying = Reader(streams, events, other).start()
        reader = Reader(streams, events, job_id).start()
        await until(lambda: reader.progress and staying.progress)
        events.is_away = True
        records.cancel(job_id)
        records.delete(job_id)
        events.is_away = False
        await reader.ended()
        assert not staying.task.done()
        await streams.close()
        await staying.ended()

    run(main)


def test_closing_ends_every_stream_at_once_and_the_polling(records, events):
    async def main():
        streams, jobs = JobStreams(events), [add(records) for _ in range(3)]
        readers = [Reader(streams, events, job_id).start() for job_id in jobs * 2]
        await until(lambda: all(reader.progress for reader in readers))
        await streams.close()
        for reader in readers:
            await reader.ended()
        assert streams._poll_task.done()
        late = await Reader(streams, events, jobs[0]).start().ended()
        assert late.ids == []

    run(main)


def test_nothing_is_polled_without_readers(records, events):
    async def main():
        streams, job_id = JobStreams(events), add(records)
        assert streams._poll_task is None
        for _ in range(2):
            reader = Reader(streams, events, job_id).start()
            await until(lambda: reader.progress)  # noqa: B023
            reader.task.cancel()
            await asyncio.wait([reader.task])
            await until(streams._poll_task.done)
        assert streams._watched == {}

    run(main)


def test_many_readers_share_one_poll(records, events):
    async def main():
        streams, jobs = JobStreams(events), [add(records) for _ in range(20)]
        readers = [Reader(streams, events, job_id).start() for job_id in jobs * 10]
        await until(lambda: all(reader.progress for reader in readers))
        fetched, after = [], events.after
        events.after = lambda *arguments: fetched.append(arguments) or after(*arguments)
        for job_id in jobs:
            records.cancel(job_id)
        for reader in readers:
            await reader.ended()
            assert reader.ids == [1, 2, 3, 4]
        assert fetched == [], "what is new comes with the poll"

    run(main)


def test_streams_end_after_a_while_and_reconnecting_misses_nothing(records, events, monkeypatch):
    async def main():
        streams, job_id = JobStreams(events), add(records)
        staying = Reader(streams, events, job_id).start()
        await until(lambda: staying.progress)
        monkeypatch.setattr(module, "STREAM_LIFETIME_S", 0.3)
        first = await Reader(streams, events, job_id).start().ended()
        assert first.kinds[-1] != "cancelled", "the job goes on"
        assert not staying.task.done()
        records.start(job_id)
        second = await Reader(streams, events, job_id, first.ids[-1]).start().ended()
        monkeypatch.setattr(module, "STREAM_LIFETIME_S", TIMEOUT_S)
        records.cancel(job_id)
        last = await Reader(streams, events, job_id, second.ids[-1]).start().ended()
        await staying.ended()
        assert first.ids + second.ids + last.ids == staying.ids
        assert staying.kinds[-1] == "cancelled"
        assert streams._watched == {}

    run(main)


def test_stream_of_a_reader_with_much_to_read_ends_too(records, events, monkeypatch):
    async def main():
        streams, job_id = JobStreams(events), add(records)
        events.log(job_id, *(LogMessage(f"{n}") for n in range(PAGE_EVENTS * 3)))
        monkeypatch.setattr(module, "STREAM_LIFETIME_S", 0.2)
        follow = streams.follow(job_id, 0, events.snapshots([job_id])[job_id])
        seen = [(await anext(follow)).number]
        time = asyncio.get_running_loop().time
        end = time() + 0.2
        await until(lambda: time() > end)
        seen += [event.number async for event in follow]
        assert seen == list(range(1, PAGE_EVENTS + 1)), "what was fetched already, and no more"

    run(main)
