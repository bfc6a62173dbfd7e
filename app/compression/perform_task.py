"""Dispatch of a task, in a worker or inline, by its kind."""

from collections.abc import Iterable

from palettery.app.calibration.store_folder import calibrate_stored
from palettery.app.compression import finishing
from palettery.app.compression.cancellation import CancellationCheck
from palettery.app.compression.score_cache import run_score_task
from palettery.app.compression.sources import Sources
from palettery.app.compression.task import run_task, verified_reader
from palettery.app.errors import OutOfMemory
from palettery.app.inference.model_files import Advance
from palettery.app.settings import Limits
from palettery.app.storage.open import shared_storage
from palettery.schemas.tasks import (
    Answer,
    CalibrateTask,
    CompressionTask,
    DigestTask,
    EvaluateTask,
    ExportTask,
    FinishTask,
    GatherTask,
    OutputsTask,
    PublishTask,
    ScoreTask,
    Task,
    VerifyTask,
    WriteTask,
)


def perform(task: Task, threads: int | None = None, advance: Advance = lambda *_: None) -> Answer:
    """Run a task and return its answer; `threads` None uses every core.

    `advance` is called with the progress of a task that has any.

    Raises:
        OutOfMemory: the task takes more memory than this process has.
    """
    try:
        return _perform(task, threads, advance)
    except MemoryError as error:
        raise OutOfMemory(
            f"{describe(task)} took more memory than a worker has; {memory_remedy(task)}"
        ) from error


def memory_remedy(task: Task) -> str:
    """Return advice for a task that needs more memory than a worker has."""
    if isinstance(task, CalibrateTask):
        return "use workers with more, or a smaller batch, and retry the calibration"
    if isinstance(task, OutputsTask):
        return "use workers with more, and try again"
    return (
        "use workers with more, a smaller PALETTERY_TASK_BYTES, or a granularity with smaller "
        "groups, and retry the job"
    )


def describe(task: Task) -> str:
    """Return a description of a task, for messages."""
    match task:
        case CompressionTask():
            return f"palettizing {_summarize_names(item.name for item in task.slices)}"
        case ScoreTask():
            return f"scoring {_summarize_names(tensor.name for tensor in task.tensors)}"
        case WriteTask():
            return f"writing {task.shard}"
        case VerifyTask():
            return f"verifying {task.names[0]} and its neighbours"
        case ExportTask():
            return f"making the artifact {task.format}"
        case DigestTask():
            return "digesting tensors"
        case EvaluateTask():
            return "evaluating the artifact"
        case OutputsTask():
            return "running the model on the inputs of the evaluation"
        case CalibrateTask():
            return "calibrating"
        case _:
            return "putting the artifact together"


def _summarize_names(repeated_names: Iterable[str]) -> str:
    names = list(dict.fromkeys(repeated_names))
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _perform(task: Task, threads: int | None, advance: Advance) -> Answer:
    match task:
        case CalibrateTask():
            return _calibrate(task, advance)
        case CompressionTask():
            run_task(task, threads)
        case ScoreTask():
            return run_score_task(task, threads)
        case DigestTask():
            store = verified_reader(shared_storage(task.store_url), task.slices)
            return tuple(Sources(store, store, store).content_sha256(item) for item in task.slices)
        case GatherTask():
            return finishing.gather(task)
        case WriteTask():
            return finishing.write(task)
        case VerifyTask():
            finishing.verify_tensors(task, threads)
        case ExportTask():
            return finishing.export(task)
        case PublishTask():
            return finishing.publish(task)
        case FinishTask():
            for compression_task in task.first:
                run_task(compression_task, threads)
            return finishing.finish(task, threads)
    return None


def _calibrate(task: CalibrateTask, advance: Advance) -> Answer:
    store = shared_storage(task.store_url)
    check_cancelled = CancellationCheck(store, task.cancel_path)
    return calibrate_stored(store, task.prefix, Limits(), check_cancelled, advance)
