"""Spread tasks over workers: the one place that knows Dask.

Source: docs.dask.org and the measurements in the engine reference. Workers get paths and small
values only; held futures would make finished tasks run again when a worker dies, so each is let go.
"""

import itertools
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin, as_completed

from app.compression.job import assemble_job
from app.compression.run import run_task
from kernels.threads import available_threads
from schemas.tasks import CompressionTask


class Workers:
    """Worker processes that run tasks."""

    def __init__(self, client: Client, threads: int) -> None:
        self._client = client
        self._threads = threads

    async def run_tasks(
        self,
        tasks: Sequence[CompressionTask],
        on_done: Callable[[CompressionTask], Awaitable[None]],
        priority: int = 0,
    ) -> None:
        """Run every task, telling of each when its part exists; a higher priority goes first.

        Raises:
            PaletteryError: what the first failing task raised; the others are given up.
        """
        futures = {
            self._client.submit(
                _run,
                task.model_dump_json(),
                self._threads,
                key=task.part_path,
                pure=False,
                priority=priority,
            ): task
            for task in tasks
        }
        try:
            async for future in as_completed(list(futures), loop=self._client.loop):
                await future
                task = futures.pop(future)
                future.release()
                await on_done(task)
        finally:
            await self._client.cancel(list(futures))

    async def assemble(self, storage_url: str, prefix: str, priority: int = 0) -> int:
        """Assemble and verify a job's artifact in a worker; returns the artifact's bytes."""
        future = self._client.submit(
            assemble_job,
            storage_url,
            prefix,
            key=f"{prefix}/assemble",
            pure=False,
            priority=priority,
        )
        try:
            return int(await future)
        finally:
            future.release()

    def count(self) -> int:
        """Workers that can take a task now."""
        return len(self._client.scheduler_info(n_workers=-1)["workers"])


@asynccontextmanager
async def local_workers(count: int) -> AsyncIterator[Workers]:
    """Worker processes on this machine, warm: kernels loaded before the first task comes."""
    settings = {
        "distributed.scheduler.allowed-failures": 10,
        "distributed.scheduler.worker-ttl": "60s",
        "distributed.worker.daemon": True,
        "distributed.admin.low-level-log-length": 0,
        # Dask insists on a web server per process; these serve nothing.
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
    with dask.config.set(settings):
        async with (
            LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                memory_limit=0,
                # Dask calls a heartbeat cut off by closing an error; those of tasks reach us.
                silence_logs=logging.CRITICAL,
                asynchronous=True,
            ) as cluster,
            Client(cluster, asynchronous=True, set_as_default=False) as client,
        ):
            await client.register_plugin(_LeavesStoppingToServer())
            addresses = client.scheduler_info(n_workers=-1)["workers"]
            warming = [
                client.submit(_warm, key=f"warm-{place}", workers=[place], pure=False)
                for place in addresses
            ]
            await client.gather(warming)
            yield Workers(client, threads=max(1, available_threads() // count))


class _LeavesStoppingToServer(WorkerPlugin):
    """Ctrl-C in a terminal reaches every process; the server stops its workers by itself."""

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 - the name is Dask's
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(task: str, threads: int) -> None:
    run_task(CompressionTask.model_validate_json(task), threads)


def _warm() -> None:
    """Load every kernel, so that no job waits for it."""
    import numpy as np

    import kernels

    weight = np.random.default_rng(0).normal(size=(1024, 1024))
    # Small groups and whole tensors, fast and exact mode, half precision take their own kernels.
    for (n_bits, group_size), decimals, dtype in itertools.product(
        ((4, 16), (8, None)), (4, None), (np.float32, np.float16)
    ):
        settings = kernels.PaletteSettings(
            n_bits, group_size=group_size, rounding_precision=decimals
        )
        palette = kernels.palettize(weight.astype(dtype), settings)
        kernels.unpack(kernels.pack(palette.indices, n_bits), n_bits, palette.indices.shape)
        kernels.reconstruct(palette)
