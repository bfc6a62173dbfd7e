"""What a job is in the store: the files that say what to do, and where its results go."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from pydantic import TypeAdapter

from palettery.app.compression.report import kept
from palettery.app.compression.statistics import read_all
from palettery.app.errors import ObjectMissing
from palettery.app.storage.base import Storage
from palettery.app.storage.checked_reads import DIGESTS
from palettery.schemas.base import Schema
from palettery.schemas.report import Report
from palettery.schemas.tasks import CompressionTask, JobRequest, Published, Result

ARRAY_BYTES = 256 << 10
JOBS = "jobs"
"""Folder of all jobs' folders."""
REPORT, EXPORTS = "report.json", "exports"
"""Names in a job's folder."""
_TASKS = TypeAdapter(list[CompressionTask])


def write_job(
    store: Storage, prefix: str, request: JobRequest, tasks: Sequence[CompressionTask]
) -> int:
    """Store what a job needs to run, on any machine, at any later time; its bytes.

    The config lies by itself, too, for those who ask for it: a request has megabytes of tensors.
    """
    documents = {
        config_path(prefix): request.config.model_dump_json().encode(),
        f"{prefix}/request.json": request.model_dump_json().encode(),
        f"{prefix}/tasks.json": _TASKS.dump_json(list(tasks)),
    }
    for path, document in documents.items():
        store.write(path, document)
    return sum(map(len, documents.values()))


def read_request(store: Storage, prefix: str) -> JobRequest:
    """What a job is to do."""
    return JobRequest.model_validate_json(bytes(store.read(f"{prefix}/request.json")))


def read_tasks(store: Storage, prefix: str, attempt: int = 0) -> list[CompressionTask]:
    """A job's tasks, on the store as it is reached now: its folder may have moved since."""
    tasks = _TASKS.validate_json(bytes(store.read(f"{prefix}/tasks.json")))
    here = {
        "source_url": store.url,
        "store_url": store.url,
        "sensitivities_url": None,
        "cancel_path": stop_path(prefix, attempt),
    }
    return [task.model_copy(update=here) for task in tasks]


def published(
    store: Storage, prefix: str, report: Report, results: Sequence[Result] = ()
) -> Published:
    """What there is of a job once its report is written."""
    kept_bytes = {
        item.path: item.size_bytes
        for item in store.listed(prefix)
        if not item.path.startswith(f"{prefix}/parts/")
    }
    return Published(
        size_bytes=sum(kept_bytes[artifact_path(prefix, name)] for name in report.artifact_sha256),
        stored_bytes=sum(kept_bytes.values()),
        results=tuple(results),
        kept=kept(report),
    )


def write_report(store: Storage, prefix: str, report: Report) -> None:
    """Write a job's report; from then on its artifact is published."""
    store.write(report_path(prefix), report.model_dump_json().encode())


def read_report(store: Storage, prefix: str) -> Report:
    """Return a job's report.

    Raises:
        ObjectMissing: its artifact is not published.
    """
    return Report.model_validate_json(bytes(store.read(report_path(prefix))))


def report_documents(store: Storage, prefix: str) -> dict[str, Iterable[bytes | memoryview]]:
    """A job's report and its statistics as JSON, in pieces; read as they are asked for."""
    path = report_path(prefix)
    return {
        "report": store.chunks(path, 0, store.size_bytes(path)),
        "statistics": _array(read_all(store, statistics_path(prefix))),
    }


def _array(items: Iterable[Schema]) -> Iterator[bytes]:
    """A list of them, in pieces that are worth a change of threads each."""
    held, comma = b"[", b""
    with suppress(ObjectMissing):  # of a job from before there were any
        for item in items:
            held += comma + item.model_dump_json().encode()
            comma = b",\n"
            if len(held) >= ARRAY_BYTES:
                yield held
                held = b""
    yield held + b"]"


def discard_artifact(store: Storage, prefix: str) -> None:
    """Remove a job's artifact; its report first, since a report stands for a sound artifact."""
    store.delete(report_path(prefix))
    store.delete(statistics_path(prefix))
    store.delete_folder(f"{prefix}/artifact")
    store.delete_folder(f"{prefix}/{EXPORTS}")
    store.delete_folder(f"{prefix}/{DIGESTS}")


def job_folder(job_id: str) -> str:
    """Where everything of a job lies."""
    return f"{JOBS}/{job_id}"


def config_path(prefix: str) -> str:
    """Where a job's config lies, as JSON with every default filled in."""
    return f"{prefix}/config.json"


def artifact_path(prefix: str, name: str) -> str:
    """Return the path of a file of a job's artifact."""
    return f"{prefix}/artifact/{name}"


def export_path(prefix: str, to: str) -> str:
    """Return the path of an export of a job's artifact."""
    return f"{prefix}/{EXPORTS}/{to}"


def statistics_path(prefix: str) -> str:
    """Return the path of the statistics of a job's tensors, one line each."""
    return f"{prefix}/statistics.jsonl"


def report_path(prefix: str) -> str:
    """Return the path of a job's report."""
    return f"{prefix}/{REPORT}"


def parts_path(prefix: str) -> str:
    """Where it is noted where a job's parts lie, once all are there."""
    return f"{prefix}/parts.json"


def job_in(path: str) -> str:
    """Id of the job in whose folder something lies."""
    return path.removeprefix(f"{JOBS}/").split("/", 1)[0]


def stop_path(prefix: str, attempt: int) -> str:
    """The object whose existence asks the tasks of one attempt at a job to stop."""
    return f"{prefix}/stop-{attempt}"
