"""What a job is in the store: the files that say what to do, and how to finish it."""

import json

from pydantic import TypeAdapter

from app.compression.assemble import assemble
from app.errors import Cancelled
from app.storage import Storage, open_storage
from schemas.checkpoint import Checkpoint
from schemas.config import KMeansPalettizerConfig
from schemas.plan import Plan
from schemas.report import Report
from schemas.tasks import CompressionTask

_TASKS = TypeAdapter(list[CompressionTask])


def write_job(
    store: Storage,
    prefix: str,
    config: KMeansPalettizerConfig,
    checkpoint: Checkpoint,
    plan: Plan,
    tasks: list[CompressionTask],
) -> None:
    """Store what a job needs to run, on any machine, at any later time."""
    store.write(f"{prefix}/config.json", json.dumps(config.model_dump(mode="json")).encode())
    store.write(f"{prefix}/checkpoint.json", checkpoint.model_dump_json().encode())
    store.write(f"{prefix}/plan.json", plan.model_dump_json().encode())
    store.write(f"{prefix}/tasks.json", _TASKS.dump_json(tasks))


def read_tasks(store: Storage, prefix: str) -> list[CompressionTask]:
    """A job's tasks, on the store as it is reached now: its folder may have moved since."""
    tasks = _TASKS.validate_json(bytes(store.read(f"{prefix}/tasks.json")))
    here = {"source_url": store.url, "store_url": store.url, "sensitivities_url": None}
    return [task.model_copy(update=here) for task in tasks]


def assemble_job(storage_url: str, prefix: str) -> int:
    """Assemble and verify a job's artifact from its parts; returns the artifact's bytes.

    Raises:
        Cancelled: the job was cancelled meanwhile; its artifact is gone again.
    """
    store = open_storage(storage_url)
    if store.exists(f"{prefix}/report.json"):
        report = Report.model_validate_json(bytes(store.read(f"{prefix}/report.json")))
        return _artifact_bytes(store, prefix, report)
    report = assemble(
        Plan.model_validate_json(bytes(store.read(f"{prefix}/plan.json"))),
        Checkpoint.model_validate_json(bytes(store.read(f"{prefix}/checkpoint.json"))),
        read_tasks(store, prefix),
        source=store,
        store=store,
        prefix=prefix,
        config=KMeansPalettizerConfig.model_validate_json(
            bytes(store.read(f"{prefix}/config.json"))
        ),
    )
    if store.exists(cancel_path(prefix)):
        discard_artifact(store, prefix)
        raise Cancelled("the job was cancelled while its artifact was put together")
    return _artifact_bytes(store, prefix, report)


def discard_artifact(store: Storage, prefix: str) -> None:
    """Remove a job's artifact; its report first, since a report stands for a sound artifact."""
    store.delete(f"{prefix}/report.json")
    store.delete_folder(f"{prefix}/artifact")


def cancel_path(prefix: str) -> str:
    """The object whose existence asks a job's tasks to stop."""
    return f"{prefix}/cancelled"


def _artifact_bytes(store: Storage, prefix: str, report: Report) -> int:
    return sum(store.size_bytes(f"{prefix}/artifact/{name}") for name in report.artifact_sha256)
