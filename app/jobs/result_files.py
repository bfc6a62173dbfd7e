"""Files that a job has written, as listed in its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from palettery.app.compression.job_folder import job_folder, report_path
from palettery.app.storage.open import shared_storage
from palettery.schemas.exports import Exported
from palettery.schemas.report import Report


@dataclass(frozen=True)
class ResultFiles:
    """Names and digests of the files of an artifact and its exports."""

    artifact: Mapping[str, str]
    """File name -> SHA-256 in hex."""
    exports: Sequence[Exported]
    """The artifact in other formats."""


def read_result_files(store_url: str, job_id: str) -> ResultFiles:
    """Read a job's report; the processes of `document_pool` run this."""
    data = shared_storage(store_url).read(report_path(job_folder(job_id)))
    report = Report.model_validate_json(bytes(data))
    return ResultFiles(dict(report.artifact_sha256), report.exports)
