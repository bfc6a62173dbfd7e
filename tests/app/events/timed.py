"""Coroutines of a test, which end in time."""

import asyncio

TIMEOUT_S = 60


def run(main):
    """Run a test's coroutine."""

    async def within():
        async with asyncio.timeout(TIMEOUT_S):
            await main()

    asyncio.run(within())


async def until(holds):
    """Wait until something holds."""
    while not await asyncio.to_thread(holds):
        await asyncio.sleep(0.01)
