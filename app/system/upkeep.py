"""Work of a server between requests: check its database, give memory back."""

import asyncio
import logging
from collections.abc import Callable

from palettery.app.database.engine import Database
from palettery.app.sandbox.process_memory import MemoryTrimmer

TRIM_EVERY_S = 5.0

log = logging.getLogger(__name__)


async def keep_up(database: Database, check_every_s: float) -> None:
    """Look after this process until cancelled."""
    await asyncio.gather(
        _repeat(check_every_s, database.check),
        _repeat(TRIM_EVERY_S, MemoryTrimmer().run),
    )


async def _repeat(every_s: float, work: Callable[[], None]) -> None:
    while True:
        try:
            await asyncio.to_thread(work)
        except Exception:
            log.exception("will be tried again")
        await asyncio.sleep(every_s)
