"""Folder of a job in the store: its request, tasks, parts, artifact and report."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from pydantic import TypeAdapter

from palettery.app.compression.report import count_keep_reasons
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
    """Store a job's config, request and tasks; return their size in bytes.

    The config has a file of its own, too, so that it is read without the megabytes of a request.
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
    """Return a job's request."""
    return JobRequest.model_validate_json(bytes(store.read(f"{prefix}/request.json")))


def read_tasks(store: Storage, prefix: str, attempt: int = 0) -> list[CompressionTask]:
    """Return a job's tasks, with the current URL of the store, which may have moved."""
    tasks = _TASKS.validate_json(bytes(store.read(f"{prefix}/tasks.json")))
    update = {
        "source_url": store.url,
        "store_url": store.url,
        "sensitivities_url": None,
        "cancel_path": stop_path(prefix, attempt),
    }
    return [task.model_copy(update=update) for task in tasks]


def published_artifact(
    store: Storage, prefix: str, report: Report, results: Sequence[Result] = ()
) -> Published:
    """Return the sizes and results of a job whose report is written."""
    size_bytes = {
        item.path: item.size_bytes
        for item in store.listed(prefix)
        if not item.path.startswith(f"{prefix}/parts/")
    }
    return Published(
        size_bytes=sum(size_bytes[artifact_path(prefix, name)] for name in report.artifact_sha256),
        stored_bytes=sum(size_bytes.values()),
        results=tuple(results),
        kept=count_keep_reasons(report),
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
    """Return a job's report and statistics as JSON, in chunks that are read lazily."""
    path = report_path(prefix)
    return {
        "report": store.chunks(path, 0, store.size_bytes(path)),
        "statistics": _array(read_all(store, statistics_path(prefix))),
    }


def _array(items: Iterable[Schema]) -> Iterator[bytes]:
    """Yield a JSON array, in chunks large enough to be worth a switch of threads."""
    chunk, comma = b"[", b""
    with suppress(ObjectMissing):  # of a job from a version without statistics
        for item in items:
            chunk += comma + item.model_dump_json().encode()
            comma = b",\n"
            if len(chunk) >= ARRAY_BYTES:
                yield chunk
                chunk = b""
    yield chunk + b"]"


def discard_artifact(store: Storage, prefix: str) -> None:
    """Delete a job's artifact; the report first, since it implies a verified artifact."""
    store.delete(report_path(prefix))
    store.delete(statistics_path(prefix))
    store.delete_folder(f"{prefix}/artifact")
    store.delete_folder(f"{prefix}/{EXPORTS}")
    store.delete_folder(f"{prefix}/{DIGESTS}")


def job_folder(job_id: str) -> str:
    """Return the folder of a job."""
    return f"{JOBS}/{job_id}"


def config_path(prefix: str) -> str:
    """Return the path of a job's config, as JSON with all defaults."""
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
    """Return the path of the list of a job's parts, written once all exist."""
    return f"{prefix}/parts.json"


def job_in(path: str) -> str:
    """Return the id of the job in whose folder a path is."""
    return path.removeprefix(f"{JOBS}/").split("/", 1)[0]


def stop_path(prefix: str, attempt: int) -> str:
    """Return the path of the cancel marker of one attempt at a job."""
    return f"{prefix}/stop-{attempt}"
