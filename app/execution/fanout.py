"""Spread tasks over workers: the one place where work meets Dask.

Source: docs.dask.org and the measurements in the engine reference. Workers get JSON and give small
values back; held futures would make finished tasks run again when a worker dies, so each is let go.
"""

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Any

from distributed import Client, as_completed, get_worker
from distributed.client import ClosedClientError, FutureCancelledError
from distributed.scheduler import KilledWorker

from palettery.app.compression.dispatch import describe, perform
from palettery.app.compression.job_folder import job_in
from palettery.app.errors import WorkerDied, WorkersLost
from palettery.app.execution.fair_slots import FairSlots, Share
from palettery.app.observability import logging as logs
from palettery.app.observability.metrics import Metrics
from palettery.app.observability.tracing import Tracing
from palettery.app.settings import Settings
from palettery.schemas.service import WorkerProcess
from palettery.schemas.tasks import KINDS, Answer, CompressionTask, Task

NEWS = "all"
"""Dask's name of what its scheduler tells of workers and clients."""
TASKS = "palettery-tasks"
"""Topic under which workers tell of tasks that have ended, and how long they took."""
AWAY = "the scheduler of the workers went away; the job waits"
PER_WORKER = 3
"""Tasks that the scheduler is given at once for each worker."""
MOST_LANES = 256
"""Tasks of one job that wait for workers at once."""
STATES_WITHIN_S = 2.0
"""How long the scheduler is waited for by somebody who just wants to know."""
OnDied = Callable[[Sequence[Task]], Awaitable[None]]
"""Called with the tasks that a worker had in hand when it died; others do them."""
OnDone = Callable[[Task, Answer], Awaitable[None]]
"""Called with each task and what it gave back, one at a time."""


class Workers:
    """Worker processes that run tasks, behind one scheduler."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Client]],
        metrics: Metrics,
        traces: Tracing,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._connect, self._metrics, self._traces = connect, metrics, traces
        self._id = uuid.uuid4().hex
        """Tells whose task it was that a worker has ended; others hear of it too."""
        self._client: Client | None = None
        self._underway: dict[str, tuple[Task, OnDied]] = {}
        """Tasks by their keys, and whom to tell of their worker's death."""
        self._connecting = asyncio.Lock()
        self._slots = FairSlots(self._most_at_once, weights)

    async def run_tasks(
        self,
        tasks: Sequence[Task],
        on_done: OnDone,
        share: Share | None = None,
        on_died: OnDied | None = None,
    ) -> None:
        """Run every task, telling of each when it is done; owners have workers in turn.

        Raises:
            PaletteryError: what the first failing task raised; the others are given up.
            WorkerDied: workers died while they ran one of the tasks, again and again.
            WorkersLost: the scheduler went away; what the tasks stored until then lies there.
        """
        if tasks:
            with self._traces.span(type(tasks[0]).__name__, {"tasks": len(tasks)}):
                await self._spread(tasks, on_done, share or Share(), on_died)

    async def _spread(
        self, tasks: Sequence[Task], on_done: OnDone, share: Share, on_died: OnDied | None
    ) -> None:
        """Run tasks side by side; Dask has few at a time, so that who comes next is ours to say."""
        client, run, one_by_one = await self._reached(), uuid.uuid4().hex, asyncio.Lock()
        numbered = iter(enumerate(tasks))

        async def lane() -> None:
            for number, task in numbered:
                async with self._slots.one(share):
                    key = f"{type(task).__name__}-{run}-{number}"
                    answer = await self._run(client, key, task, on_died)
                async with one_by_one:
                    await on_done(task, answer)

        first: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as lanes:
                for _ in range(min(len(tasks), max(MOST_LANES, self._most_at_once()))):
                    lanes.create_task(lane())
        except BaseExceptionGroup as failures:
            first = failures.exceptions[0]
        if first is not None:
            raise first

    async def _run(self, client: Client, key: str, task: Task, on_died: OnDied | None) -> Answer:
        """Have Dask run one task; what it gives back."""
        try:
            future = client.submit(
                _run, type(task).__name__, task.model_dump_json(), self._id, key=key, pure=False
            )
        except ClosedClientError as error:
            raise WorkersLost(AWAY) from error
        if on_died is not None:
            self._underway[key] = (task, on_died)
        try:
            async for _ in as_completed([future], loop=client.loop):
                pass
            # Most give nothing back; fetching that would cost as much as a small task.
            gives = future.status != "finished" or not isinstance(task, CompressionTask)
            return await future if gives else None
        except (FutureCancelledError, ClosedClientError) as error:
            raise WorkersLost(AWAY) from error
        except KilledWorker as error:
            raise WorkerDied(_died(task, error)) from error
        finally:
            self._underway.pop(key, None)
            if future.status == "pending":
                # Nothing runs any more for a client that was closed meanwhile.
                with contextlib.suppress(OSError, RuntimeError, ClosedClientError):
                    await client.cancel([future])
            future.release()

    def _most_at_once(self) -> int:
        """Tasks that Dask is given at once: workers have the next one before they need it."""
        return PER_WORKER * max(1, self.count())

    async def ask(
        self, task: Task, share: Share | None = None, on_died: OnDied | None = None
    ) -> Answer:
        """Run one task; what it gives back.

        Raises:
            PaletteryError: as `run_tasks`.
        """
        answers: list[Answer] = []

        async def on_done(_: Task, answer: Answer) -> None:
            answers.append(answer)

        await self.run_tasks([task], on_done, share, on_died)
        return answers[0]

    def count(self) -> int:
        """Workers that can take a task now."""
        if self._client is None or not self._is_connected():
            return 0
        return int(self._client.scheduler_info().get("n_workers", 0))

    def states(self) -> dict[str, int]:
        """How many workers do what, as they said lately; waits, so not for the event loop.

        Raises:
            WorkersLost: the scheduler does not answer.
        """
        if not self._is_connected():
            return {}
        return {"busy": 0, "idle": 0} | Counter(each.state for each in self.processes())

    def processes(self) -> list[WorkerProcess]:
        """Every worker, as it said lately; waits, so not for the event loop.

        Raises:
            WorkersLost: the scheduler does not answer.
        """
        client: Any = self._client
        if not self._is_connected():
            return []
        asked = asyncio.run_coroutine_threadsafe(
            client.scheduler.identity(n_workers=-1), client.loop.asyncio_loop
        )
        try:
            workers = asked.result(STATES_WITHIN_S)["workers"].values()
        except (OSError, TimeoutError) as error:
            raise WorkersLost("the scheduler of the workers does not answer") from error
        return [_process(worker) for worker in workers]

    def _is_connected(self) -> bool:
        return self._client is not None and self._client.status == "running"

    async def reach(self) -> None:
        """Connect, so that the first job need not wait for it.

        Raises:
            WorkersLost: there is no scheduler.
        """
        await self._reached()

    async def close(self) -> None:
        """Let go of the scheduler."""
        if self._client is not None:
            if self._client.status == "running":
                self._client.unsubscribe_topic(NEWS)  # or it would be sent that it has gone
            await self._client.close()

    async def _reached(self) -> Client:
        """The client; a new one when the old one gave its scheduler up."""
        async with self._connecting:
            if self._client is None or self._client.status in ("closing", "closed"):
                try:
                    self._client = await self._connect()
                    self._client.subscribe_topic(NEWS, self._hear)
                    self._client.subscribe_topic(TASKS, self._count)
                except (OSError, TimeoutError, ClosedClientError) as error:
                    raise WorkersLost(f"no scheduler answers: {error}") from error
        return self._client

    def _count(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """A worker has ended a task."""
        _, ended = event
        if ended["by"] == self._id:
            self._metrics.task_ended(ended["kind"], ended["seconds"])

    async def _hear(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """The scheduler's news of its workers: tell of those that died with work in hand."""
        _, news = event
        if news.get("action") != "remove-worker" or news["expected"]:
            return
        lost: dict[OnDied, list[Task]] = {}
        for key in news["processing-tasks"]:
            if key in self._underway:
                task, on_died = self._underway[key]
                lost.setdefault(on_died, []).append(task)
        for on_died, tasks in lost.items():
            await on_died(tasks)


def _died(task: Task, error: KilledWorker) -> str:
    return (
        f"{error.allowed_failures + 1} workers died while {describe(task)}, most likely for lack "
        "of memory; use workers with more, a smaller PALETTERY_TASK_BYTES, or a granularity with "
        "smaller groups, and retry the job"
    )


def _process(worker: Mapping[str, Any]) -> WorkerProcess:
    """A worker as its scheduler tells of it; what it said last of itself may lack."""
    said = worker["metrics"]
    return WorkerProcess(
        state=_doing(worker),
        cpu_percent=said.get("cpu"),
        memory_bytes=said.get("memory"),
        memory_limit_bytes=worker["memory_limit"] or None,
    )


def _doing(worker: Mapping[str, Any]) -> str:
    if worker["status"] != "running":
        return str(worker["status"])
    return "busy" if worker["metrics"].get("task_counts", {}).get("executing") else "idle"


def _run(kind: str, text: str, by: str) -> Answer:
    """In a worker: do a task. Its kind tells apart those that have the same fields."""
    task = KINDS[kind].model_validate_json(text)
    began = time.perf_counter()
    try:
        with logs.job_context(
            job_in(task.part_path if isinstance(task, CompressionTask) else task.prefix)
        ):
            return perform(task, _threads())
    finally:
        seconds = time.perf_counter() - began
        get_worker().log_event(TASKS, {"by": by, "kind": kind, "seconds": seconds})


@cache
def _threads() -> int | None:
    return Settings().task_threads
