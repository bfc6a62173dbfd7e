"""Owners take turns, and none of them has all places."""

import asyncio
from collections import Counter

import pytest

from palettery.app.sandbox.fair_semaphore import FairSemaphore

DEADLINE_S = 20


class Lane:
    """A semaphore, and tasks that hold a place until they are let go."""

    def __init__(self, places):
        self.semaphore, self.tasks = FairSemaphore(places), {}
        self.inside, self.order = [], []

    def ask(self, owner, name):
        self.tasks[name] = asyncio.create_task(self._hold(owner, name))

    async def _hold(self, owner, name):
        leave = asyncio.Event()
        async with self.semaphore.turn(owner):
            self.inside.append((owner, name, leave))
            self.order.append(name)
            await leave.wait()
        self.inside.remove((owner, name, leave))

    async def settle(self):
        for _ in range(10):
            await asyncio.sleep(0)

    async def leave(self, name):
        next(leave for _, inside, leave in self.inside if inside == name).set()
        await self.tasks[name]
        await self.settle()

    async def leave_all(self):
        while self.inside:
            await self.leave(self.inside[0][1])

    def holders(self):
        return Counter(owner for owner, *_ in self.inside)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, DEADLINE_S))


@pytest.mark.parametrize(("places", "most"), [(1, 1), (2, 1), (3, 2), (8, 7)])
def test_one_owner_leaves_a_place_for_others(places, most):
    async def scenario():
        lane = Lane(places)
        for number in range(3 * places):
            lane.ask("a", number)
        await lane.settle()
        assert lane.holders() == {"a": most}
        lane.ask("b", "b")
        await lane.settle()
        assert lane.holders()["b"] == (1 if places > 1 else 0)
        await lane.leave_all()
        assert len(lane.order) == 3 * places + 1
        assert len(lane.semaphore) == 0, "nothing is known of owners that ask no more"

    run(scenario())


def test_new_owner_is_next_however_much_others_wait_for():
    async def scenario():
        lane = Lane(3)
        for owner in ("a", "b", "c"):
            for number in range(20):
                lane.ask(owner, f"{owner}{number}")
        await lane.settle()
        assert lane.holders() == {"a": 2, "b": 1}
        lane.ask("d", "d0")
        await lane.settle()
        for _ in range(2):
            await lane.leave(lane.inside[0][1])
        assert lane.order[3:] == ["c0", "d0"], "owners that had no turn yet, in their order"
        await lane.leave_all()

    run(scenario())


def test_waiting_owners_take_turns():
    async def scenario():
        lane = Lane(1)
        for number in range(4):
            lane.ask("a", f"a{number}")
        await lane.settle()
        for number in range(3):
            lane.ask("b", f"b{number}")
        await lane.settle()
        await lane.leave_all()
        assert lane.order == ["a0", "b0", "a1", "b1", "a2", "b2", "a3"]

    run(scenario())


def test_many_that_give_up_at_once_leave_no_trace():
    async def scenario():
        lane = Lane(2)
        for owner in "abc":
            for number in range(5):
                lane.ask(owner, f"{owner}{number}")
        await lane.settle()
        for task in lane.tasks.values():
            task.cancel()
        await asyncio.gather(*lane.tasks.values(), return_exceptions=True)
        assert len(lane.semaphore) == 0
        lane.inside.clear()
        lane.ask("a", "after")
        lane.ask("b", "too")
        await lane.settle()
        assert lane.holders() == {"a": 1, "b": 1}
        await lane.leave_all()

    run(scenario())


@pytest.mark.parametrize("when", ["waiting", "granted", "holding"])
def test_request_that_is_given_up_leaves_its_place(when):
    async def scenario():
        lane = Lane(1)
        lane.ask("a", "first")
        await lane.settle()
        lane.ask("b", "second")
        await lane.settle()
        if when != "waiting":
            next(leave for *_, leave in lane.inside).set()
            await lane.tasks["first"]  # which grants the place, and the other has not run yet
        if when == "holding":
            await lane.settle()
        lane.tasks["second"].cancel()
        await asyncio.gather(lane.tasks["second"], return_exceptions=True)
        lane.inside[:] = [entry for entry in lane.inside if entry[1] != "second"]
        lane.ask("c", "third")
        await lane.leave_all()
        await lane.settle()
        await lane.leave_all()
        assert lane.order[-1] == "third"
        assert len(lane.semaphore) == 0

    run(scenario())
