"""A task as a worker runs it: what Dask calls there."""

import time
from collections.abc import Callable
from functools import cache

from distributed import get_worker

from palettery.app.compression.job_folder import parse_job_id
from palettery.app.execution.dispatch import perform
from palettery.app.observability import logging as logs
from palettery.app.settings import Settings
from palettery.schemas.tasks import KINDS, Answer, CompressionTask

TASK_EVENTS = "palettery-tasks"
"""Topic of the workers' events about progress, and about ended tasks and their durations."""
PROGRESS_EVERY_S = 1.0
"""Interval between two events about the progress of a task."""


def run_in_worker(kind: str, text: str, by: str) -> Answer:
    """Run a task in a worker; `kind` distinguishes tasks with the same fields."""
    task = KINDS[kind].model_validate_json(text)
    start = time.perf_counter()
    try:
        with logs.job_context(
            parse_job_id(task.part_path if isinstance(task, CompressionTask) else task.prefix)
        ):
            return perform(task, _threads(), _reporter(by))
    finally:
        seconds = time.perf_counter() - start
        get_worker().log_event(TASK_EVENTS, {"by": by, "kind": kind, "seconds": seconds})


def _reporter(by: str) -> Callable[[int, int], None]:
    """Return a function that reports the progress of the current task, not too often."""
    worker, last, next_at = get_worker(), 0, 0.0

    def report(done: int, total: int) -> None:
        nonlocal last, next_at
        if done != last and time.monotonic() >= next_at:
            last, next_at = done, time.monotonic() + PROGRESS_EVERY_S
            worker.log_event(TASK_EVENTS, {"by": by, "key": key, "samples": (done, total)})

    key = worker.get_current_task()
    return report


@cache
def _threads() -> int | None:
    return Settings().task_threads
