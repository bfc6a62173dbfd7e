"""Work that is spread over workers, when what spreads it goes away."""

import asyncio

import pytest
from distributed import Client, Scheduler

from palettery.app.errors import WorkersLost
from palettery.app.execution.fanout import Workers
from palettery.app.observability.metrics import Metrics
from palettery.app.observability.tracing import Tracing
from palettery.schemas.tasks import GatherTask

TASK = GatherTask(store_url="memory:///", prefix="jobs/a", cancel_path="jobs/a/stop-0")


def test_connection_that_was_given_up_loses_the_workers_and_no_more(until):
    """A job waits for workers that are lost; any other error would be its end."""

    async def lose() -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:

            async def connect() -> Client:
                return await Client(scheduler.address, asynchronous=True, set_as_default=False)

            workers = Workers(connect, Metrics(), Tracing())
            for _ in range(2):  # the second time over a new connection
                running = asyncio.create_task(workers.run_task(TASK))
                await until(lambda: scheduler.tasks, "the scheduler has the task")
                await workers.close()
                with pytest.raises(WorkersLost, match="the job waits"):
                    await running

    asyncio.run(lose())
