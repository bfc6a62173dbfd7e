"""Dispatch of a task in a worker: compression, or the evaluation of what came of it."""

from palettery.app.compression.perform_task import describe, memory_remedy
from palettery.app.compression.perform_task import perform as perform_compression
from palettery.app.errors import OutOfMemory
from palettery.app.execution.evaluation_tasks import evaluate_artifact, store_outputs
from palettery.app.inference.model_files import Advance
from palettery.schemas.tasks import Answer, EvaluateTask, OutputsTask, Task


def perform(task: Task, threads: int | None, advance: Advance) -> Answer:
    """Run a task and return its answer; `advance` is called with (samples done, all samples).

    Raises:
        PaletteryError: the task failed.
    """
    try:
        match task:
            case EvaluateTask():
                return evaluate_artifact(task, advance)
            case OutputsTask():
                return store_outputs(task, advance)
            case _:
                return perform_compression(task, threads, advance)
    except MemoryError as error:
        raise OutOfMemory(
            f"{describe(task)} took more memory than a worker has; {memory_remedy(task)}"
        ) from error
