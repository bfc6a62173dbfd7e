"""What a worker process does before it takes work; Dask calls `dask_setup`."""

import gc
import os
import signal

from distributed import Worker

import kernels
from app import logs
from app.jobs.cluster import quieten
from app.jobs.steady_clock import use_steady_clock
from app.settings import Settings

NICENESS = 10
"""Whatever answers requests on the same machine comes first; what it leaves is all a worker's."""


def dask_setup(worker: Worker) -> None:
    """Load every kernel, so that no job waits for it.

    Ctrl-C in a terminal reaches every process; whoever started the workers stops them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    quieten()
    logs.configure(Settings())
    kernels.warm()
    # What is loaded by now stays; to look it through over and over would delay the end most.
    gc.freeze()
    use_steady_clock(worker.io_loop)
