"""Make another job's artifact this one's."""

from contextlib import suppress

from palettery.app.compression.job_folder import (
    artifact_path,
    export_path,
    published_artifact,
    report_path,
    statistics_path,
    write_report,
)
from palettery.app.errors import ObjectMissing
from palettery.app.storage.checked_reads import digests_path
from palettery.app.storage.open import shared_storage
from palettery.schemas.report import Report
from palettery.schemas.tasks import Published


def take_over(store_url: str, theirs: str, ours: str) -> Published | None:
    """Copy an artifact, its other forms and its report from one job's folder to another's.

    None if it has gone meanwhile. Source: object stores copy on their side, and a local folder
    links.
    """
    store = shared_storage(store_url)
    try:
        report = Report.model_validate_json(bytes(store.read(report_path(theirs))))
        for name in report.artifact_sha256:
            store.copy(artifact_path(theirs, name), artifact_path(ours, name))
        for each in report.exports:
            store.copy(export_path(theirs, each.format), export_path(ours, each.format))
        store.copy(statistics_path(theirs), statistics_path(ours))
        for sha256 in (*report.artifact_sha256.values(), *(each.sha256 for each in report.exports)):
            with suppress(ObjectMissing):  # of a small file, or one from before there were any
                store.copy(digests_path(sha256, theirs), digests_path(sha256, ours))
    except ObjectMissing:
        return None
    tensors = tuple(
        tensor.model_copy(update={"reused": tensor.action == "palettized"})
        for tensor in report.tensors
    )
    write_report(store, ours, report.model_copy(update={"tensors": tensors}))
    return published_artifact(store, ours, report)
