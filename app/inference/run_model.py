"""Run of a model on inputs in a sandboxed process, with its limits, progress and response."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from palettery.app.errors import SandboxCrashed
from palettery.app.inference.model_files import (
    ENVIRONMENT,
    Advance,
    ModelFiles,
    model_bounds,
    report_progress,
)
from palettery.app.sandbox import run
from palettery.app.settings import Limits
from palettery.schemas.base import Schema

Answer = TypeVar("Answer", bound=Schema)


class ModelRequest(Schema):
    """Request to the sandboxed process."""

    files: ModelFiles
    limits: Limits


def run_model(
    worker: str,
    request: ModelRequest,
    folder: Path,
    dense_bytes: int,
    answer_type: type[Answer],
    *,
    check_cancelled: Callable[[], None],
    advance: Advance,
    what: str = "running the model",
) -> Answer:
    """Run a worker module on a request in the sandbox, and return its response.

    Args:
        worker: Name of the module.
        request: Request to it.
        folder: Its working folder, with the files of the request.
        dense_bytes: Size of the model's tensors.
        answer_type: Class of the response.
        check_cancelled: Called regularly; an error that it raises ends the process.
        advance: Called with the progress.
        what: What the process does, for messages.

    Raises:
        PaletteryError: see `palettery.app.sandbox.run`.
        SandboxCrashed: the answer cannot be read.
    """

    def check_and_report() -> None:
        check_cancelled()
        report_progress(folder, advance)

    response = run(
        worker,
        request.model_dump_json().encode(),
        folder,
        model_bounds(request.files, dense_bytes, request.limits.sandbox),
        what=what,
        required=request.limits.sandbox.required,
        imports=request.files.imports(),
        variables=ENVIRONMENT,
        check=check_and_report,
    )
    try:
        return answer_type.model_validate_json(response)
    except ValidationError as error:
        raise SandboxCrashed("the answer of running the model cannot be read") from error
