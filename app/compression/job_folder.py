"""Folder of a job in the store: its request, tasks, parts, artifact and report."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from pydantic import TypeAdapter

from palettery.app.compression.report import count_keep_reasons
from palettery.app.compression.statistics import read_all
from palettery.app.errors import ObjectMissing
from palettery.app.storage.base import Storage
from palettery.app.storage.verified_reader import DIGESTS
from palettery.schemas.base import Schema
from palettery.schemas.report import Report
from palettery.schemas.tasks import CompressionTask, JobRequest, Published, Result

ARRAY_BYTES = 256 << 10
"""Minimum size of the chunks of a JSON array, except the last."""
JOBS = "jobs"
"""Folder of all jobs' folders."""
REPORT, EXPORTS = "report.json", "exports"
"""Names in a job's folder."""
CALIBRATION_SAMPLES = "calibration_samples.json"
"""Name in a job's folder."""
_DIGESTS = TypeAdapter(list[str])
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


def write_request(store: Storage, prefix: str, request: JobRequest) -> int:
    """Store a job's request alone, before its config is chosen; return its size in bytes."""
    document = request.model_dump_json().encode()
    store.write(f"{prefix}/request.json", document)
    return len(document)


def read_request(store: Storage, prefix: str) -> JobRequest:
    """Return a job's request."""
    return JobRequest.model_validate_json(bytes(store.read(f"{prefix}/request.json")))


def read_tasks(store: Storage, prefix: str, attempt: int = 0) -> list[CompressionTask]:
    """Return a job's tasks, with the current URL of the store and the attempt's cancel marker."""
    tasks = _TASKS.validate_json(bytes(store.read(f"{prefix}/tasks.json")))
    update = {
        "source_url": store.url,
        "store_url": store.url,
        "sensitivities_url": None,
        "cancel_path": stop_path(prefix, attempt),
    }
    return [task.model_copy(update=update) for task in tasks]


def stored_sizes(store: Storage, prefix: str) -> dict[str, int]:
    """Return the path of each object that an ended job keeps -> its size in bytes."""
    return {
        item.path: item.size_bytes
        for item in store.list_objects(prefix)
        if not item.path.startswith(f"{prefix}/parts/")
    }


def size_or_zero(store: Storage, path: str) -> int:
    """Return the size of an object in bytes; 0 if there is none."""
    try:
        return store.size_bytes(path)
    except ObjectMissing:
        return 0


def published_artifact(
    store: Storage, prefix: str, report: Report, results: Sequence[Result] = ()
) -> Published:
    """Return the sizes and results of a job whose report is written."""
    size_bytes = stored_sizes(store, prefix)
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
        "statistics": _json_array(read_all(store, statistics_path(prefix))),
    }


def _json_array(items: Iterable[Schema]) -> Iterator[bytes]:
    """Yield a JSON array in chunks that are worth a switch of threads each."""
    chunk, comma = b"[", b""
    with suppress(ObjectMissing):  # old versions wrote no statistics
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


def outputs_path(prefix: str, key: str) -> str:
    """Return the path of the outputs of a job's model on the inputs of an evaluation."""
    return f"{prefix}/outputs/{key}.zip"


def samples_path(prefix: str, evaluation_id: str) -> str:
    """Return the path of an evaluation's comparison of each sample."""
    return f"{prefix}/samples/{evaluation_id}.json"


def write_calibration_samples(store: Storage, prefix: str, sample_sha256: Sequence[str]) -> None:
    """Store the digests of the samples that a job was calibrated on; evaluations warn of them."""
    store.write(f"{prefix}/{CALIBRATION_SAMPLES}", _DIGESTS.dump_json(list(sample_sha256)))


def read_calibration_samples(store: Storage, prefix: str) -> list[str]:
    """Return the digests of the samples that a job was calibrated on; empty without calibration."""
    try:
        return _DIGESTS.validate_json(bytes(store.read(f"{prefix}/{CALIBRATION_SAMPLES}")))
    except ObjectMissing:
        return []


def report_path(prefix: str) -> str:
    """Return the path of a job's report."""
    return f"{prefix}/{REPORT}"


def parts_path(prefix: str) -> str:
    """Return the path of the list of a job's parts, written once all exist."""
    return f"{prefix}/parts.json"


def parse_job_id(path: str) -> str:
    """Return the id of the job in whose folder a path is."""
    return path.removeprefix(f"{JOBS}/").split("/", 1)[0]


def stop_path(prefix: str, attempt: int) -> str:
    """Return the path of the cancel marker of one attempt at a job."""
    return f"{prefix}/stop-{attempt}"
