"""Maintenance is repeated, also after it has failed."""

import asyncio

import pytest

from palettery.app.errors import DatabaseFailed
from palettery.app.system import maintenance


@pytest.mark.parametrize(
    ("error", "level"), [(DatabaseFailed("locked"), "WARNING"), (OSError("defect"), "ERROR")]
)
def test_failed_work_is_logged_and_repeated(caplog, error, level):
    class Database:
        runs = 0

        def check_integrity(self) -> None:
            self.runs += 1
            if self.runs == 1:
                raise error

    async def run(database: Database) -> None:
        task = asyncio.create_task(maintenance.maintain_process(database, 0.001))
        async with asyncio.timeout(20):
            while database.runs < 3:
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run(Database()))
    assert [record.levelname for record in caplog.records] == [level]
