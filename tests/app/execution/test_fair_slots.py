"""The order in which owners get free slots."""

import asyncio
from collections import Counter
from itertools import pairwise

import pytest

from palettery.app.execution.fair_slots import FairSlots, SlotRequest


class Work:
    """Tasks that end when a test says so, over some slots."""

    def __init__(self, slots=1, weights=None):
        self.slots, self.started, self._ends = slots, [], {}
        self._fair = FairSlots(lambda: self.slots, weights)
        self._tasks = []

    def add(self, name, owner, count=1, **more):
        for _ in range(count):
            request = SlotRequest(owner, **more)
            self._tasks.append(asyncio.create_task(self._run(name, request)))

    async def _run(self, name, request):
        async with self._fair.slot(request):
            ends = asyncio.Event()
            self._ends.setdefault(name, []).append(ends)
            self.started.append(name)
            await ends.wait()

    async def settle(self):
        for _ in range(10):
            await asyncio.sleep(0)

    async def end(self, name):
        self._ends[name].pop(0).set()
        await self.settle()

    async def serve(self, count):
        """End the task that has run longest, again and again; what was started since."""
        await self.settle()
        before = len(self.started)
        for place in range(before - self.slots, before - self.slots + count):
            await self.end(self.started[place])
        return self.started[before:]

    async def cancel(self, place):
        self._tasks[place].cancel()
        await self.settle()

    async def close(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert not self._fair._taken
        assert not self._fair._waiting
        assert not self._fair._last


def run(test):
    """Run a test over work of its own, which leaves nothing behind."""

    async def whole(**options):
        work = Work(**options)
        await test(work)
        await work.close()

    return lambda **options: asyncio.run(whole(**options))


@pytest.mark.parametrize("slots", [1, 2, 6])
def test_task_of_another_owner_gets_the_next_slot(slots):
    @run
    async def test(work):
        work.add("a", "ann", 40, priority=9)
        await work.settle()
        assert len(work.started) == slots
        work.add("b", "bob")
        work.add("c", "cai")
        assert (await work.serve(2)) == ["b", "c"]

    test(slots=slots)


def test_owners_with_much_to_do_alternate():
    @run
    async def test(work):
        work.add("a", "ann", 20, priority=9)
        work.add("b", "bob", 20)
        served = await work.serve(20)
        assert all(one != other for one, other in pairwise(served))

    test()


def test_an_owners_jobs_end_one_after_the_other_the_urgent_first():
    @run
    async def test(work):
        work.add("first", "ann", 3, job_id="1")
        work.add("second", "ann", 3, job_id="2")
        work.add("urgent", "ann", 3, job_id="3", priority=1)
        await work.settle()
        work.add("first", "ann", 2, job_id="1")  # a later phase of the same job
        served = await work.serve(10)
        assert served == ["urgent"] * 3 + ["first"] * 4 + ["second"] * 3

    test()


def test_weights_share_the_slots_out():
    @run
    async def test(work):
        work.add("a", "ann", 60)
        work.add("b", "bob", 60)
        assert Counter(await work.serve(40)) == {"a": 30, "b": 10}

    test(slots=4, weights={"ann": 3.0})


def test_more_slots_are_used_once_there_are_more_workers():
    @run
    async def test(work):
        work.add("a", "ann", 10)
        await work.settle()
        work.slots = 5
        await work.end("a")
        assert len(work.started) == 6

    test()


def test_tasks_that_are_given_up_hold_no_slot():
    @run
    async def test(work):
        work.add("a", "ann")
        work.add("b", "bob")
        work.add("c", "cai")
        await work.settle()
        await work.cancel(1)  # while it waits
        await work.cancel(0)  # while it runs
        assert work.started == ["a", "c"]
        work.add("d", "dee")
        work.add("e", "eve")
        await work.settle()
        work._ends["c"][0].set()
        work._tasks[3].cancel()  # just when it is its turn
        await work.settle()
        assert work.started == ["a", "c", "e"]

    test()
