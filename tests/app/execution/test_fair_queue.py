"""The order in which the engine serves jobs, on every supported database."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from sqlalchemy import update

from palettery.app.database.tables import JobRow, OwnerRow
from palettery.app.execution.fair_queue import RESTART, OwnerTurns
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.schemas.job_options import JobOptions
from palettery.schemas.jobs import Progress
from tests.app.jobs.sample_jobs import NOW, WHY, new_id
from tests.databases import KINDS

pytestmark = [pytest.mark.heavy, pytest.mark.databases(*KINDS)]

WEIGHTS = {"heavy": 3.0}


@pytest.fixture
def turns(whole_database, engine):
    return OwnerTurns(whole_database, WEIGHTS, engine.move)


class Queue:
    """Jobs by short names, and what the engine would do with them."""

    def __init__(self, database, engine, turns):
        self.jobs, self._engine = JobRepository(database, turns=turns), engine
        self._names = {}

    def add(self, owner, count=1, priority=5):
        """Queue jobs named after their owner and their number."""
        for _ in range(count):
            number = sum(name.startswith(owner) for name in self._names.values())
            new = NewJob(new_id(), "m", 1, Progress(), owner, JobOptions(priority=priority))
            self._names[self.jobs.add(new, enqueue=self._engine.enqueue).id] = f"{owner}{number}"

    def waiting(self):
        """Names of queued jobs as the engine would take them, by DBOS's own order."""
        workflows = self._engine._client.list_workflows(status="ENQUEUED")
        in_order = sorted(workflows, key=lambda each: (each.priority, each.created_at))
        return [self._names[each.workflow_id[:36]] for each in in_order]

    def serve(self, count=1):
        """Start the next jobs, each when the one before has ended; their names."""
        served = []
        for _ in range(count):
            name = self.waiting()[0]
            self.start(name)
            served.append(name)
        return served

    def start(self, name):
        job_id = self.id(name)
        assert self.jobs.start(job_id, self.jobs.get(job_id).attempt)
        self._engine._client.cancel_workflow(f"{job_id}-{self.jobs.get(job_id).attempt}")
        self.jobs.succeed(job_id, 1)

    def cancel(self, name):
        job_id = self.id(name)
        self.jobs.cancel(job_id, NOW)
        self._engine._client.cancel_workflow(f"{job_id}-{self.jobs.get(job_id).attempt}")

    def id(self, name):
        return next(job_id for job_id, each in self._names.items() if each == name)


@pytest.fixture
def queue(whole_database, engine, turns):
    return Queue(whole_database, engine, turns)


def test_forty_urgent_jobs_hold_another_owners_job_for_one_job_at_most(queue):
    queue.add("a", 40, priority=9)
    assert queue.serve(3) == ["a0", "a1", "a2"]
    queue.add("b", priority=0)
    assert queue.waiting()[:2] == ["b0", "a3"]
    queue.add("c", priority=0)
    assert queue.serve(3) == ["b0", "c0", "a3"]


def test_owners_with_long_queues_are_served_alternately(queue):
    queue.add("a", 10, priority=9)
    assert queue.serve(2) == ["a0", "a1"]
    queue.add("b", 10, priority=0)
    served = queue.serve(12)
    assert [name[0] for name in served].count("b") == 6
    assert all(one[0] != other[0] for one, other in pairwise(served))


def test_priority_orders_an_owners_own_jobs(queue):
    for priority in (5, 0, 9, 5, 9, 0):
        queue.add("a", priority=priority)
    assert queue.waiting() == ["a2", "a4", "a0", "a3", "a1", "a5"]


def test_urgent_jobs_take_their_owners_turns_and_nobody_elses(queue):
    queue.add("a", 3, priority=0)
    queue.add("b", 3, priority=5)
    queue.add("a", 3, priority=9)
    served = queue.serve(6)
    assert [name for name in served if name[0] == "a"] == ["a3", "a4", "a5"]
    assert Counter(name[0] for name in served) == {"a": 3, "b": 3}


@pytest.mark.parametrize("levels", [range(10), range(9, -1, -1), [0, 9] * 5])
def test_mixing_priorities_gets_an_owner_no_more_turns(queue, levels):
    queue.add("b", 12)
    for priority in levels:
        queue.add("a", priority=priority)
    served = Counter(name[0] for name in queue.serve(12))
    assert abs(served["a"] - served["b"]) <= 1


def test_who_sends_one_job_at_a_time_does_not_starve_who_waits(queue):
    queue.add("a", 6)
    served = []
    for _ in range(6):
        queue.add("b")
        served += queue.serve(2)
        queue.jobs.delete(queue.id(next(name for name in served[::-1] if name[0] == "b")))
    assert Counter(name[0] for name in served) == {"a": 6, "b": 6}


def test_who_was_away_gets_no_turns_for_the_past(queue):
    queue.add("a", 30)
    queue.serve(20)
    queue.add("b", 30)
    assert abs(Counter(name[0] for name in queue.serve(20))["a"] - 10) <= 1


def test_heavier_owners_are_served_more_often(queue):
    queue.add("heavy", 20)
    queue.add("light", 20)
    served = Counter(name[0] for name in queue.serve(20))
    assert served == {"h": 15, "l": 5}


def test_who_cancels_most_jobs_is_served_like_others(queue, turns):
    queue.add("a", 21)
    queue.serve(1)
    for number in (*range(1, 20, 2), *range(18, 0, -2)):
        queue.cancel(f"a{number}")
    queue.add("b", 10)
    turns.close_gaps()
    queue.serve(1)
    assert "a20" in queue.serve(2)
    turns.close_gaps()


def test_close_gaps_changes_nothing_that_is_in_order(queue, turns):
    queue.add("a", 5)
    queue.add("b", 5)
    before = queue.waiting()
    turns.close_gaps()
    assert queue.waiting() == before


def test_retried_jobs_take_a_new_turn(queue):
    queue.add("a", 4)
    failed = queue.id("a0")
    queue.jobs.start(failed)
    queue._engine._client.cancel_workflow(f"{failed}-0")
    queue.jobs.fail(failed, WHY)
    queue.add("b", 4)
    queue.jobs.retry(failed, queue._engine.enqueue)
    assert [name for name in queue.waiting() if name[0] == "a"] == ["a1", "a2", "a3", "a0"]


def test_jobs_from_before_there_were_turns_are_served_first(queue, whole_database):
    queue.add("a", 2)
    with whole_database.transaction() as session:
        session.execute(update(JobRow).values(turn=0))
        session.execute(update(OwnerRow).values(turn=None))
    queue.add("a", priority=9)
    queue.add("b")
    assert set(queue.serve(4)) == {"a0", "a1", "a2", "b0"}


def test_turns_begin_anew_before_the_engine_cannot_count_them(queue, turns, whole_database):
    queue.add("a", 3)
    queue.serve(1)
    with whole_database.transaction() as session:
        session.execute(update(OwnerRow).values(turn=RESTART + 7))
    queue.add("b", 3)
    turns.close_gaps()
    turns.close_gaps()
    priorities = [each.priority for each in queue._engine._client.list_workflows(status="ENQUEUED")]
    assert max(priorities) < RESTART // 2
    served = queue.serve(5)
    assert [name for name in served if name[0] == "b"] == ["b0", "b1", "b2"]


def test_jobs_that_are_added_and_started_at_once_keep_their_owners_order(queue, whole_database):
    """Threads add, start and cancel jobs of two owners; nothing is lost, and nothing locks up."""

    def work(owner, priority):
        for number in range(12):
            new = NewJob(new_id(), "m", 1, Progress(), owner, JobOptions(priority=priority))
            job = queue.jobs.add(new, enqueue=queue._engine.enqueue)
            if number % 3 == 0:
                queue.jobs.start(job.id)
            elif number % 3 == 1:
                queue.jobs.cancel(job.id)

    lanes = [(owner, priority) for owner in ("a", "b") for priority in (0, 5, 9)]
    with ThreadPoolExecutor(len(lanes)) as at_once:
        list(at_once.map(work, *zip(*lanes, strict=True)))
    assert queue.jobs.counts() == {"queued": 24, "running": 24, "cancelled": 24}
    with whole_database.transaction() as session:
        rows = session.query(JobRow).filter_by(state="queued").all()
    for owner in ("a", "b"):
        mine = sorted((row for row in rows if row.owner == owner), key=lambda row: row.turn)
        assert [row.priority for row in mine] == sorted(
            (row.priority for row in mine), reverse=True
        )
        assert len({row.turn for row in mine}) == len(mine)
