"""Worker processes and their scheduler, on this machine or on many.

Every worker runs one task at a time. There is one worker per GPU, or without GPUs as many as
configured.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler

from palettery.app.execution.fanout import Workers
from palettery.app.execution.steady_clock import use_steady_clock
from palettery.app.execution.worker_options import worker_options
from palettery.app.observability.metrics import Metrics
from palettery.app.observability.tracing import Tracing
from palettery.app.sandbox import log_missing_protections
from palettery.app.settings import Settings

DASK = {
    "distributed.scheduler.allowed-failures": 3,
    "distributed.scheduler.worker-ttl": "60s",
    "distributed.worker.daemon": True,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # With Dask's defaults, malloc returns memory to the system so eagerly that workers are slow.
    "distributed.nanny.pre-spawn-environ": {
        "MALLOC_TRIM_THRESHOLD_": 256 << 20,
        "MALLOC_MMAP_THRESHOLD_": 32 << 20,
        "OMP_NUM_THREADS": 1,
        "MKL_NUM_THREADS": 1,
        "OPENBLAS_NUM_THREADS": 1,
    },
    "distributed.worker.profile.enabled": False,
    "distributed.admin.low-level-log-length": 0,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    # Dask always starts a web server per process; without routes it serves nothing.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
LOG_LEVELS = {
    "distributed": logging.ERROR,
    "distributed.client": logging.CRITICAL,
    "distributed.nanny": logging.CRITICAL,
}
"""Levels of Dask's own logs; failures of tasks, connections and starts are raised as errors.

A nanny also logs an error when it is stopped while its worker ends.
"""
CONNECT_TIMEOUT_S = 10
RESTART_AFTER_S = 1.0
"""Time between the end of a worker and the start of its replacement."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def local_workers(
    settings: Settings, metrics: Metrics, traces: Tracing
) -> AsyncIterator[Workers]:
    """Start worker processes on this machine, and a scheduler in this process.

    Dask's own `LocalCluster` never replaces a worker whose restart takes 15 s.
    """
    options, started = worker_options(settings), asyncio.Semaphore(0)
    async with _configured():
        # Dask logs errors of heartbeats that closing interrupts; those of tasks are raised.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        async with (
            Scheduler(**_listening("127.0.0.1", 0)) as scheduler,
            _working(scheduler.address, options, lambda _: started.release()),
            _connected(settings, lambda: _client(scheduler.address), metrics, traces) as workers,
        ):
            for _ in options:
                await started.acquire()
            yield workers


@asynccontextmanager
async def remote_workers(
    settings: Settings, metrics: Metrics, traces: Tracing
) -> AsyncIterator[Workers]:
    """Connect to the workers of a remote scheduler; their number may change."""
    assert settings.scheduler_url is not None  # noqa: S101 - callers checked
    address = settings.scheduler_url
    async with (
        _configured(),
        _connected(settings, lambda: _client(address), metrics, traces) as workers,
    ):
        yield workers


def run_scheduler(host: str, port: int) -> None:
    """Run a scheduler, to which workers and controllers connect, until SIGTERM or SIGINT."""

    async def serve() -> None:
        async with _configured(), Scheduler(**_listening(host, port)) as scheduler:
            print(f"palettery scheduler is ready at {scheduler.address}", flush=True)  # noqa: T201
            await _stopped()

    asyncio.run(serve())


def run_worker(settings: Settings) -> None:
    """Run workers of a remote scheduler until SIGTERM or SIGINT; dead workers are replaced."""
    assert settings.scheduler_url is not None  # noqa: S101 - callers checked
    address, settings = settings.scheduler_url, settings.with_sandbox(required=True)

    async def serve() -> None:
        async with _configured(), _working(address, worker_options(settings), _print_ready):
            await _stopped()

    log_missing_protections(settings.limits.sandbox)
    asyncio.run(serve())


def _print_ready(address: str) -> None:
    print(f"palettery worker is ready at {address}", flush=True)  # noqa: T201


@asynccontextmanager
async def _working(
    address: str, workers: list[dict[str, Any]], on_start: Callable[[str], None]
) -> AsyncIterator[None]:
    """Run workers of a scheduler until the block ends; dead workers are replaced."""
    tasks = [asyncio.create_task(_keep_working(address, each, on_start)) for each in workers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep_working(
    address: str, options: dict[str, Any], on_start: Callable[[str], None]
) -> None:
    while True:
        try:
            async with Nanny(address, **options) as nanny:
                on_start(nanny.worker_address)
                await nanny.finished()
        except (OSError, TimeoutError, RuntimeError) as error:
            log.warning("a worker for %s ended: %s", address, error)
        await asyncio.sleep(RESTART_AFTER_S)


async def _stopped() -> None:
    """Wait for SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def silence_dask() -> None:
    """Raise the levels of Dask's own loggers."""
    for name, level in LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)


@asynccontextmanager
async def _configured() -> AsyncIterator[None]:
    silence_dask()
    use_steady_clock()
    with dask.config.set(DASK):
        yield


@asynccontextmanager
async def _connected(
    settings: Settings,
    connect: Callable[[], Awaitable[Client]],
    metrics: Metrics,
    traces: Tracing,
) -> AsyncIterator[Workers]:
    workers = Workers(connect, metrics, traces, settings.owner_weights)
    try:
        yield workers
    finally:
        with contextlib.suppress(OSError, TimeoutError):
            await workers.close()


async def _client(address: str) -> Client:
    client: Client = await Client(
        address, asynchronous=True, set_as_default=False, timeout=CONNECT_TIMEOUT_S
    )
    return client


def _listening(host: str, port: int) -> dict[str, Any]:
    return {"host": host, "port": port, "dashboard": False, "dashboard_address": f"{host}:0"}
