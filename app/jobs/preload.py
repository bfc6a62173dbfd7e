"""What a worker process does before it takes work; Dask calls `dask_setup`."""

import gc
import signal

from distributed import Worker

import kernels
from app.jobs.cluster import quieten


def dask_setup(worker: Worker) -> None:  # noqa: ARG001 - the name is Dask's
    """Load every kernel, so that no job waits for it.

    Ctrl-C in a terminal reaches every process; whoever started the workers stops them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quieten()
    kernels.warm()
    # What is loaded by now stays; to look it through over and over would delay the end most.
    gc.freeze()
