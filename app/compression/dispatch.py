"""Dispatch of a task, in a worker or inline, by its kind."""

from palettery.app.compression import finishing
from palettery.app.compression.palettize import content_sha256
from palettery.app.compression.task import checked_reads, run_task
from palettery.app.errors import OutOfMemory
from palettery.app.storage.open import shared_storage
from palettery.schemas.tasks import (
    Answer,
    CompressionTask,
    DigestTask,
    ExportTask,
    FinishTask,
    GatherTask,
    PublishTask,
    Task,
    VerifyTask,
    WriteTask,
)


def perform(task: Task, threads: int | None = None) -> Answer:
    """Run a task and return its answer; `threads` None uses every core.

    Raises:
        OutOfMemory: the task takes more memory than this process has.
    """
    try:
        return _perform(task, threads)
    except MemoryError as error:
        raise OutOfMemory(
            f"{describe(task)} took more memory than a worker has; use workers with more, a "
            "smaller PALETTERY_TASK_BYTES, or a granularity with smaller groups, and retry the job"
        ) from error


def describe(task: Task) -> str:
    """Return what a task does, for messages."""
    match task:
        case CompressionTask():
            names = list(dict.fromkeys(item.name for item in task.slices))
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return f"palettizing {names[0]}{more}"
        case WriteTask():
            return f"writing {task.shard}"
        case VerifyTask():
            return f"verifying {task.names[0]} and its neighbours"
        case ExportTask():
            return f"making the artifact {task.format}"
        case DigestTask():
            return "digesting tensors"
        case _:
            return "putting the artifact together"


def _perform(task: Task, threads: int | None) -> Answer:
    match task:
        case CompressionTask():
            run_task(task, threads)
        case DigestTask():
            store = checked_reads(shared_storage(task.store_url), task.slices)
            return tuple(content_sha256(store, store, item) for item in task.slices)
        case GatherTask():
            return finishing.gather(task)
        case WriteTask():
            return finishing.write(task)
        case VerifyTask():
            finishing.check(task, threads)
        case ExportTask():
            return finishing.export(task)
        case PublishTask():
            return finishing.publish(task)
        case FinishTask():
            for small in task.first:
                run_task(small, threads)
            return finishing.finish(task, threads)
    return None
