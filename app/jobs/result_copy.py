"""Copies of artifacts from one job to another with the same request."""

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
from palettery.app.storage.open import shared_storage
from palettery.app.storage.verified_reader import digests_path
from palettery.schemas.report import Report
from palettery.schemas.tasks import Published


def copy_results(store_url: str, source: str, target: str) -> Published | None:
    """Copy an artifact, its exports and its report from one job's folder to another's.

    Returns None if the files were deleted meanwhile. Object stores copy on their side, and a local
    store makes hard links. The processes of `document_pool` run this.
    """
    store = shared_storage(store_url)
    try:
        report = Report.model_validate_json(bytes(store.read(report_path(source))))
        for name in report.artifact_sha256:
            store.copy(artifact_path(source, name), artifact_path(target, name))
        for each in report.exports:
            store.copy(export_path(source, each.format), export_path(target, each.format))
        store.copy(statistics_path(source), statistics_path(target))
        for sha256 in (*report.artifact_sha256.values(), *(each.sha256 for each in report.exports)):
            with suppress(ObjectMissing):  # of a small file, or from before digests were stored
                store.copy(digests_path(sha256, source), digests_path(sha256, target))
    except ObjectMissing:
        return None
    tensors = tuple(
        tensor.model_copy(update={"reused": tensor.action == "palettized"})
        for tensor in report.tensors
    )
    update = {"tensors": tensors, "evaluation": None}  # each job has its own
    write_report(store, target, report.model_copy(update=update))
    return published_artifact(store, target, report)
