"""A background task ends with its block, and its failure does not reach the block."""

import asyncio

import pytest

from palettery.app.roles.background import background_task


def test_task_runs_during_the_block_and_is_cancelled_at_its_end():
    events = []

    async def work() -> None:
        events.append("started")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    async def block() -> None:
        async with background_task(work()):
            await asyncio.sleep(0)
            assert events == ["started"]

    asyncio.run(block())
    assert events == ["started", "cancelled"]


def test_error_of_the_block_is_raised_and_that_of_the_task_is_not():
    async def work() -> None:
        raise OSError

    async def block() -> None:
        async with background_task(work()):
            await asyncio.sleep(0)
            raise RuntimeError("of the block")

    with pytest.raises(RuntimeError, match="of the block"):
        asyncio.run(block())
