"""Options of the worker processes of one machine: devices, threads and memory."""

import logging
import os
from typing import Any

import psutil
from distributed.system import MEMORY_LIMIT

from palettery.app.settings import Settings
from palettery.kernels.devices import visible_devices
from palettery.kernels.threads import available_threads

WORKER_BYTES = 250 << 20
"""Memory of a worker without a task."""
TASK_COPIES = 5
"""Copies of a task's weights that a worker has in memory at most."""


def worker_options(settings: Settings) -> list[dict[str, Any]]:
    """Return the options of Dask's `Nanny` for each worker of this machine: one per GPU, if any."""
    devices = visible_devices()
    cores = available_threads()
    count = devices or settings.workers or cores
    threads = settings.task_threads or max(1, cores // count)
    shared = {
        "PALETTERY_TASK_THREADS": str(threads),
        "PALETTERY_SANDBOX_REQUIRED": str(bool(settings.limits.sandbox.required)).lower(),
    }
    own: list[dict[str, str]] = [{} for _ in range(count)]
    if devices:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(devices))))
        own = [{"CUDA_VISIBLE_DEVICES": device} for device in visible.split(",")]
    return [
        {
            "nthreads": 1,
            "memory_limit": settings.worker_memory_bytes or _share_of_memory(settings, count),
            "preload": ["palettery.app.execution.preload"],
            "silence_logs": logging.CRITICAL,
            "env": shared | environment,
        }
        for environment in own
    ]


def _share_of_memory(settings: Settings, workers: int) -> int:
    """Return the memory of each worker under a cgroup's limit; 0 without a limit.

    A worker gets at least what its tasks need; without a limit of its own, the operating system
    would kill the largest process.
    """
    if psutil.virtual_memory().total <= MEMORY_LIMIT:
        return 0
    least = WORKER_BYTES + TASK_COPIES * settings.task_bytes
    return max(least, (MEMORY_LIMIT - WORKER_BYTES) // workers)
