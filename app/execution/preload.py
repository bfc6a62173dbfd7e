"""What a worker process does before it takes work; Dask calls `dask_setup`."""

import gc
import os
import signal

from distributed import Worker

from palettery import kernels
from palettery.app.execution.cluster import quieten
from palettery.app.execution.steady_clock import use_steady_clock
from palettery.app.observability import logging as logs
from palettery.app.settings import Settings

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
    kernels.warm_up()
    # What is loaded by now stays; to look it through over and over would delay the end most.
    gc.freeze()
    use_steady_clock(worker.io_loop)
