"""Do any task in a worker: the one function that fan-out sends there."""

from palettery.app.compression import finishing as finish
from palettery.app.compression.palettize import content_sha256
from palettery.app.compression.task import checked, run_task
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
    """Do a task; `threads` None uses every core.

    Raises:
        OutOfMemory: this worker has not the memory that the task takes.
    """
    try:
        return _perform(task, threads)
    except MemoryError as error:
        raise OutOfMemory(
            f"{describe(task)} took more memory than a worker has; use workers with more, a "
            "smaller PALETTERY_TASK_BYTES, or a granularity with smaller groups, and retry the job"
        ) from error


def describe(task: Task) -> str:
    """What a task does, for messages."""
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
            store = checked(shared_storage(task.store_url), task.slices)
            return tuple(content_sha256(store, store, item) for item in task.slices)
        case GatherTask():
            return finish.gather(task)
        case WriteTask():
            return finish.write(task)
        case VerifyTask():
            finish.check(task, threads)
        case ExportTask():
            return finish.export(task)
        case PublishTask():
            return finish.publish(task)
        case FinishTask():
            for small in task.first:
                run_task(small, threads)
            return finish.finish(task, threads)
    return None
