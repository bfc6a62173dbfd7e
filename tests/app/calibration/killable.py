"""A calibration of a store in one process, as a worker and its sandbox run it in two."""

import contextlib
import importlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from unittest import mock

import torch

import palettery.app.calibration.worker  # noqa: F401 - for processes that are forked from here
from palettery.app.calibration import sample_sums, store_folder
from palettery.app.inference import run_model
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.open import open_storage

CHECK_EVERY_S = 0.001


def calibrate(store_url: str, prefix: str, writes: int | None = None) -> None:
    """Run a calibration from its last saved sums to its end, or until it has written so often.

    Then the process kills itself. It saves after every batch, so as to be killed in time.
    """
    torch.set_num_threads(1)
    store = open_storage(store_url)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(run_model, "run", _run))
        if writes is not None:
            for module in (sample_sums, store_folder):
                stack.enter_context(mock.patch.object(module, "SAVE_INTERVAL_FACTOR", 0))
            stack.enter_context(_killed_at(type(store), writes))
        store_folder.calibrate_stored(store, prefix, Limits(), lambda: None, lambda *_: None)


def _killed_at(kind: type[Storage], writes: int):
    """Patch a class of stores so that the process is killed at the write after these many."""
    write, left = kind.write, writes

    def killing(store, path, data):
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        write(store, path, data)

    return mock.patch.object(kind, "write", killing)


def _run(module: str, request: bytes, folder: Path, *_, check, **__) -> bytes:
    """Stand in for the sandbox, whose start would take longer than the calibration."""
    answer = importlib.import_module(module).answer
    with contextlib.chdir(folder), ThreadPoolExecutor(1) as pool:
        future = pool.submit(answer, request)
        while not wait([future], CHECK_EVERY_S).done:
            check()
        return future.result()
