"""Execution of tasks in this process, one after the other; a kernel uses all cores by itself."""

from collections.abc import Callable, Sequence

from palettery.app.compression.perform_task import perform
from palettery.schemas.tasks import CompressionTask


def run_tasks(tasks: Sequence[CompressionTask], on_done: Callable[[CompressionTask], None]) -> None:
    """Run every task; `on_done` is called with each once its part exists."""
    for task in tasks:
        perform(task)
        on_done(task)
