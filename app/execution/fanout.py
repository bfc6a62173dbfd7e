"""Dispatch of tasks to workers; the only module that submits work to Dask.

Workers receive tasks as JSON and return small values. Every future is released at once: otherwise
Dask would repeat finished tasks when a worker dies.
Source: docs.dask.org and the measurements in the engine reference.
"""

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from distributed import Client, as_completed
from distributed.client import ClosedClientError, FutureCancelledError
from distributed.scheduler import KilledWorker

from palettery.app.compression.perform_task import describe, memory_remedy
from palettery.app.errors import WorkerDied, WorkersLost
from palettery.app.execution.fair_slots import FairSlots, SlotRequest
from palettery.app.execution.worker_task import TASK_EVENTS, run_in_worker
from palettery.app.observability.metrics import Metrics
from palettery.app.observability.tracing import Tracing
from palettery.schemas.service import WorkerProcess
from palettery.schemas.tasks import Answer, CompressionTask, Task

SCHEDULER_EVENTS = "all"
"""Dask's topic of the scheduler's events about workers and clients."""
AWAY = "the scheduler of the workers went away; the job waits"
PER_WORKER = 3
"""Tasks per worker that the scheduler has at once."""
MAX_LANES = 256
"""Tasks of one job that wait for slots at once."""
STATES_TIMEOUT_S = 2.0
"""Timeout of questions to the scheduler about its workers."""
OnDied = Callable[[Sequence[Task]], Awaitable[None]]
"""Callback for the unfinished tasks of a worker that died; other workers repeat them."""
OnDone = Callable[[Task, Answer], Awaitable[None]]
"""Callback for each task and its result, called for one at a time."""
OnProgress = Callable[[int, int], Awaitable[None]]
"""Callback for the progress of a task that runs a model: (samples done, all samples)."""


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
        """Marks the tasks of this process in the workers' events, which all clients receive."""
        self._client: Client | None = None
        self._running: dict[str, tuple[Task, OnDied]] = {}
        """Tasks by their keys, and the callback for their worker's death."""
        self._progress: dict[str, OnProgress] = {}
        """Callbacks for the progress of running tasks, by their keys."""
        self._connecting = asyncio.Lock()
        self._slots = FairSlots(self._concurrency, weights)

    async def run_tasks(
        self,
        tasks: Sequence[Task],
        on_done: OnDone,
        slot: SlotRequest | None = None,
        on_died: OnDied | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Run every task; `on_done` is called with each result. Slots are shared among owners.

        Raises:
            PaletteryError: the error of the first task that failed; the others are cancelled.
            WorkerDied: several workers died while they ran the same task.
            WorkersLost: the scheduler is unavailable; results that are stored already stay.
        """
        if tasks:
            with self._traces.span(type(tasks[0]).__name__, {"tasks": len(tasks)}):
                await self._dispatch(tasks, on_done, slot or SlotRequest(), on_died, on_progress)

    async def _dispatch(
        self,
        tasks: Sequence[Task],
        on_done: OnDone,
        slot: SlotRequest,
        on_died: OnDied | None,
        on_progress: OnProgress | None,
    ) -> None:
        """Run tasks in parallel; Dask has few at a time, as `FairSlots` decides their order."""
        client, run, one_by_one = await self._connected(), uuid.uuid4().hex, asyncio.Lock()
        numbered = iter(enumerate(tasks))

        async def lane() -> None:
            for number, task in numbered:
                async with self._slots.slot(slot):
                    key = f"{type(task).__name__}-{run}-{number}"
                    answer = await self._run(client, key, task, on_died, on_progress)
                async with one_by_one:
                    await on_done(task, answer)

        first_error: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as lanes:
                for _ in range(min(len(tasks), max(MAX_LANES, self._concurrency()))):
                    lanes.create_task(lane())
        except BaseExceptionGroup as failures:
            first_error = failures.exceptions[0]
        if first_error is not None:
            raise first_error

    async def _run(
        self,
        client: Client,
        key: str,
        task: Task,
        on_died: OnDied | None,
        on_progress: OnProgress | None,
    ) -> Answer:
        """Run one task with Dask and return its result."""
        try:
            future = client.submit(
                run_in_worker,
                type(task).__name__,
                task.model_dump_json(),
                self._id,
                key=key,
                pure=False,
            )
        except ClosedClientError as error:
            raise WorkersLost(AWAY) from error
        if on_died is not None:
            self._running[key] = (task, on_died)
        if on_progress is not None:
            self._progress[key] = on_progress
        try:
            async for _ in as_completed([future], loop=client.loop):
                pass
            # Most tasks have no result; fetching it would cost as much as a small task.
            has_result = future.status != "finished" or not isinstance(task, CompressionTask)
            return await future if has_result else None
        except (FutureCancelledError, ClosedClientError) as error:
            raise WorkersLost(AWAY) from error
        except KilledWorker as error:
            raise WorkerDied(_death_message(task, error)) from error
        finally:
            self._running.pop(key, None)
            self._progress.pop(key, None)
            if future.status == "pending":
                # A client that was closed meanwhile has no running tasks.
                with contextlib.suppress(OSError, RuntimeError, ClosedClientError):
                    await client.cancel([future])
            future.release()

    def _concurrency(self) -> int:
        """Return how many tasks Dask has at once; each worker has its next ones in advance."""
        return PER_WORKER * max(1, self.count())

    async def run_task(
        self,
        task: Task,
        slot: SlotRequest | None = None,
        on_died: OnDied | None = None,
        on_progress: OnProgress | None = None,
    ) -> Answer:
        """Run one task and return its result.

        Raises:
            PaletteryError: see `run_tasks`.
        """
        answers: list[Answer] = []

        async def on_done(_: Task, answer: Answer) -> None:
            answers.append(answer)

        await self.run_tasks([task], on_done, slot, on_died, on_progress)
        return answers[0]

    def count(self) -> int:
        """Return the number of connected workers."""
        if self._client is None or not self._is_connected():
            return 0
        return int(self._client.scheduler_info().get("n_workers", 0))

    def states(self) -> dict[str, int]:
        """Return the number of workers in each state; blocks, so not for the event loop.

        Raises:
            WorkersLost: the scheduler does not answer.
        """
        if not self._is_connected():
            return {}
        return {"busy": 0, "idle": 0} | Counter(each.state for each in self.processes())

    def processes(self) -> list[WorkerProcess]:
        """Return the state of every worker; blocks, so not for the event loop.

        Raises:
            WorkersLost: the scheduler does not answer.
        """
        client: Any = self._client
        if not self._is_connected():
            return []
        identity = asyncio.run_coroutine_threadsafe(
            client.scheduler.identity(n_workers=-1), client.loop.asyncio_loop
        )
        try:
            workers = identity.result(STATES_TIMEOUT_S)["workers"].values()
        except (OSError, TimeoutError) as error:
            raise WorkersLost("the scheduler of the workers does not answer") from error
        return [_process(worker) for worker in workers]

    def _is_connected(self) -> bool:
        return self._client is not None and self._client.status == "running"

    async def connect(self) -> None:
        """Connect to the scheduler now instead of at the first task.

        Raises:
            WorkersLost: there is no scheduler.
        """
        await self._connected()

    async def close(self) -> None:
        """Close the connection to the scheduler."""
        if self._client is not None:
            if self._client.status == "running":
                self._client.unsubscribe_topic(
                    SCHEDULER_EVENTS
                )  # otherwise it would receive its own removal
            await self._client.close()

    async def _connected(self) -> Client:
        """Return the client; a new one if the old one lost its scheduler."""
        async with self._connecting:
            if self._client is None or self._client.status in ("closing", "closed"):
                try:
                    self._client = await self._connect()
                    self._client.subscribe_topic(SCHEDULER_EVENTS, self._on_scheduler_event)
                    self._client.subscribe_topic(TASK_EVENTS, self._on_task_event)
                except (OSError, TimeoutError, ClosedClientError) as error:
                    raise WorkersLost(f"no scheduler answers: {error}") from error
        return self._client

    async def _on_task_event(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Count a task that a worker has ended, or report the progress of one that runs."""
        _, task = event
        if task["by"] != self._id:
            return
        if "samples" not in task:
            self._metrics.task_ended(task["kind"], task["seconds"])
        elif (on_progress := self._progress.get(task["key"])) is not None:
            await on_progress(*task["samples"])

    async def _on_scheduler_event(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Report the tasks of a worker that died."""
        _, details = event
        if details.get("action") != "remove-worker" or details["expected"]:
            return
        lost: dict[OnDied, list[Task]] = {}
        for key in details["processing-tasks"]:
            if key in self._running:
                task, on_died = self._running[key]
                lost.setdefault(on_died, []).append(task)
        for on_died, tasks in lost.items():
            await on_died(tasks)


def _death_message(task: Task, error: KilledWorker) -> str:
    return (
        f"{error.allowed_failures + 1} workers died while {describe(task)}, most likely for lack "
        f"of memory; {memory_remedy(task)}"
    )


def _process(worker: Mapping[str, Any]) -> WorkerProcess:
    """Return a worker's state as the scheduler reports it; its metrics may be missing."""
    metrics = worker["metrics"]
    return WorkerProcess(
        state=_state(worker),
        cpu_percent=metrics.get("cpu"),
        memory_bytes=metrics.get("memory"),
        memory_limit_bytes=worker["memory_limit"] or None,
    )


def _state(worker: Mapping[str, Any]) -> str:
    if worker["status"] != "running":
        return str(worker["status"])
    return "busy" if worker["metrics"].get("task_counts", {}).get("executing") else "idle"
