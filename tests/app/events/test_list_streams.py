"""Streams of the changes in lists of jobs, on every supported database."""

import asyncio
import json

import pytest

from palettery.app.errors import DatabaseFailed
from palettery.app.events import list_streams as module
from palettery.app.events.job_changes import JobChangeRepository
from palettery.app.events.list_streams import ListStreams
from palettery.schemas.events import DeletedJob
from palettery.schemas.jobs import Job, Progress
from tests.app.events.timed import TIMEOUT_S, run, until
from tests.app.jobs.sample_jobs import add, ended
from tests.databases import KINDS_IN_HEAVY

pytestmark = pytest.mark.databases(*KINDS_IN_HEAVY)


class Faulty(JobChangeRepository):
    """Changes of a database that is unavailable while `is_away`."""

    is_away = False
    polls = 0

    def changes_since(self, since, owners):
        self.polls += 1
        if self.is_away:
            raise DatabaseFailed("the database is away")
        return super().changes_since(since, owners)


@pytest.fixture
def changes(database, monkeypatch):
    monkeypatch.setattr(module, "POLL_INTERVAL_S", 0.02)
    return Faulty(database)


class Page:
    """Does what a page does: fetches the list once the stream is open, then applies its events."""

    def __init__(self, live, records, owner="local"):
        self._records, self._owner = records, owner
        self._stream = live.follow(owner)
        self.jobs, self.opened, self.received = None, 0, []
        self.task = asyncio.create_task(self._follow())

    async def _follow(self):
        async for kind, data in self._stream:
            if kind == "open":
                self.opened += 1
                page = await asyncio.to_thread(self._records.page, 1000, None, self._owner)
                self.jobs = {job.id: job for job in page}
            elif kind == "job":
                job = Job.model_validate_json(data)
                self.jobs[job.id] = job
                self.received.append(job)
            else:
                self.jobs.pop(DeletedJob.model_validate_json(data).id, None)

    def shows(self, records):
        return self.jobs == {job.id: job for job in records.page(1000, None, self._owner)}

    async def ended(self):
        await asyncio.wait_for(self.task, TIMEOUT_S)


async def opened(live, records):
    """A page that shows what there is."""
    page = Page(live, records)
    await until(lambda: page.jobs is not None)
    return page


def test_pages_show_what_there_is_whatever_happens(records, changes):
    async def main():
        live, old = ListStreams(changes), ended(records, "succeeded")
        first = await opened(live, records)
        assert first.jobs.keys() == {old}
        done, failed, running = add(records), add(records), add(records)
        second, other = Page(live, records), Page(live, records, "other")
        theirs = add(records, owner="other")
        for job_id in (done, failed, running, theirs):
            records.start(job_id)
        records.advance(running, Progress(tensors_done=2))
        records.succeed(done, 7)
        records.delete(old)
        records.cancel(failed)
        records.retry(failed)
        pages = (first, second, other)
        await until(lambda: all(page.jobs and page.shows(records) for page in pages))
        assert first.jobs.keys() == {done, failed, running}
        assert first.jobs[running].progress.tensors_done == 2
        assert other.jobs.keys() == {theirs}
        assert {job.owner for job in other.received} == {"other"}
        await live.close()
        for page in pages:
            await page.ended()
            assert page.opened == 1

    run(main)


def test_unchanged_jobs_are_not_sent(records, changes):
    async def main():
        live, job_id = ListStreams(changes), add(records)
        records.start(job_id)
        page = await opened(live, records)
        polls = changes.polls
        await until(lambda: changes.polls > polls + 5)
        assert len(page.received) <= 1, "at most its state at the first poll"
        records.advance(job_id, Progress(tensors_done=1))
        await until(lambda: page.shows(records))
        assert len(page.received) <= 2
        await live.close()

    run(main)


def test_job_that_ends_between_two_polls_is_sent(records, changes):
    async def main():
        live = ListStreams(changes)
        page = await opened(live, records)
        changes.is_away = True
        short, gone = ended(records, "failed"), ended(records, "cancelled")
        records.delete(gone)
        changes.is_away = False
        await until(lambda: page.received)
        assert [job.state for job in page.received] == ["failed"]
        assert page.jobs.keys() == {short}
        await live.close()

    run(main)


def test_streams_wait_while_the_database_is_unavailable(records, changes):
    async def main():
        live = ListStreams(changes)
        early = await opened(live, records)
        changes.is_away = True
        polls = changes.polls
        await until(lambda: changes.polls > polls + 2)
        fresh = ListStreams(changes)
        late = Page(fresh, records)
        job_id = add(records)
        assert late.jobs is None, "not open before the first poll"
        changes.is_away = False
        await until(lambda: early.jobs and late.jobs)
        assert early.jobs.keys() == late.jobs.keys() == {job_id}
        for each in (live, fresh):
            await each.close()

    run(main)


def test_reader_that_does_not_read_gets_the_latest_alone(records, changes, monkeypatch):
    async def main():
        live = ListStreams(changes)
        slow, quick = live.follow("local"), Page(live, records)
        assert (await anext(slow)).kind == "open"
        first, second = add(records), add(records)
        records.start(first)
        for done in range(5):
            records.advance(first, Progress(tensors_done=done + 1))
            await until(lambda: quick.jobs and quick.shows(records))
        records.cancel(second)
        records.delete(second)
        await until(lambda: quick.shows(records))
        last = {}
        while len(last) < 2:
            kind, data = await anext(slow)
            assert last.setdefault(json.loads(data)["id"], kind) == kind
        assert last == {first: "job", second: "gone"}
        monkeypatch.setattr(module, "MAX_PENDING_JOBS", 3)
        for _ in range(4):
            add(records)
            await until(lambda: quick.shows(records))
        assert [event async for event in slow] == [], "it has to reconnect"
        await live.close()

    run(main)


def test_streams_end_when_too_far_behind_and_after_a_while(records, changes, monkeypatch):
    async def main():
        live = ListStreams(changes)
        page = await opened(live, records)
        changes.is_away = True
        monkeypatch.setattr("palettery.app.events.job_changes.MAX_CHANGES", 1)
        for _ in range(3):
            add(records)
        changes.delete_old()
        changes.is_away = False
        await page.ended()
        again = await opened(live, records)
        assert len(again.jobs) == 3
        monkeypatch.setattr(module, "STREAM_LIFETIME_S", 0.05)
        await Page(live, records).ended()
        assert not again.task.done()
        await live.close()
        await again.ended()

    run(main)


def test_closing_ends_every_stream_and_the_polling(records, changes):
    async def main():
        live = ListStreams(changes)
        pages = [Page(live, records) for _ in range(3)]
        await until(lambda: all(page.jobs is not None for page in pages))
        await live.close()
        for page in pages:
            await page.ended()
        assert live._task.done()
        await Page(live, records).ended()
        assert live._readers == set()

    run(main)


def test_nothing_is_polled_without_readers(records, changes):
    async def main():
        live = ListStreams(changes)
        for _ in range(2):
            page = await opened(live, records)
            page.task.cancel()
            await asyncio.wait([page.task])
            await until(live._task.done)
        assert live._readers == set()

    run(main)


def test_many_readers_share_one_poll(records, changes):
    async def main():
        live = ListStreams(changes)
        pages = [Page(live, records) for _ in range(50)]
        await until(lambda: all(page.jobs is not None for page in pages))
        seen, jobs = [], changes._jobs
        changes._jobs = lambda by, among: seen.append((by, set(among))) or jobs(by, among)
        job_id = add(records)
        await until(lambda: all(job_id in page.jobs for page in pages))
        fetched = [among for by, among in seen if by == "ids" and among]
        assert fetched == [{job_id}]
        await live.close()

    run(main)
