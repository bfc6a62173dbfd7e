"""What a job made, as its report tells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from palettery.app.compression.job_folder import job_folder, report_path
from palettery.app.storage.open import shared_storage
from palettery.schemas.exports import Exported
from palettery.schemas.report import Report


@dataclass(frozen=True)
class ResultFiles:
    """The files that a job made."""

    artifact: Mapping[str, str]
    """File name -> hex digest."""
    exports: Sequence[Exported]
    """Other forms of the artifact."""


def read_made_files(store_url: str, job_id: str) -> ResultFiles:
    """Read the report of a job; the processes of `palettery.app.sandbox.document_pool` run this."""
    data = shared_storage(store_url).read(report_path(job_folder(job_id)))
    report = Report.model_validate_json(bytes(data))
    return ResultFiles(dict(report.artifact_sha256), report.exports)
