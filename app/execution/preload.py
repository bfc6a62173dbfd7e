"""Preparation of a worker process before its first task; Dask calls `dask_setup`."""

import gc
import os
import signal

from distributed import Worker

from palettery import kernels
from palettery.app.execution.cluster import silence_dask
from palettery.app.execution.steady_clock import use_steady_clock
from palettery.app.observability import logging as logs
from palettery.app.settings import Settings

NICENESS = 10
"""Niceness of workers: server processes on the same machine go first."""


def dask_setup(worker: Worker) -> None:
    """Load every kernel, so that no task waits for it.

    SIGINT is ignored: Ctrl-C in a terminal reaches every process, and the parent stops its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    silence_dask()
    logs.configure(Settings())
    kernels.warm_up()
    # Loaded modules stay; scanning them at every collection would slow down shutdown most.
    gc.freeze()
    use_steady_clock(worker.io_loop)
