"""Calibrations of a server: requests for them, their events and their files."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from palettery.app.client.connection import Connection
from palettery.app.client.downloads import Download
from palettery.app.client.events import follow
from palettery.app.client.progress import Advance
from palettery.app.errors import ERRORS, BadInput, Cancelled, Conflict, PaletteryError
from palettery.schemas.calibration import CalibrationOptions
from palettery.schemas.calibration_jobs import CalibrationJob, CalibrationProgress
from palettery.schemas.config.errors import describe_errors
from palettery.schemas.events import LogLine

PATH = "/v1/calibrations"
EVENT_TYPES: dict[str, type[BaseModel]] = {
    "state": CalibrationJob,
    "progress": CalibrationProgress,
    "log": LogLine,
}
FILE_SEGMENTS = {
    "sensitivities.safetensors": "sensitivities",
    "second_moments.safetensors": "second_moments",
    "calibration.json": "report",
}
"""File of a calibration -> last segment of its URL path."""


@dataclass(frozen=True)
class CalibrationEvent:
    """An event of a calibration."""

    number: int
    """Number of the last event that has one."""
    data: CalibrationJob | CalibrationProgress | LogLine
    """The calibration in its new state, its progress, or a line of its log."""


def calibration_options(**options: object) -> CalibrationOptions:
    """Return the options; those that are None have their defaults.

    Raises:
        BadInput: names every option that is not valid.
    """
    values = {name: value for name, value in options.items() if value is not None}
    try:
        return CalibrationOptions.model_validate(values)
    except ValidationError as error:
        errors = describe_errors(error, CalibrationOptions)
        raise BadInput("; ".join(item.detail for item in errors), errors) from error


async def calibration_events(
    connection: Connection, calibration_id: str, after: int
) -> AsyncIterator[CalibrationEvent]:
    """Yield a calibration's events after number `after`, until it has ended.

    Raises:
        NotFound: there is no such calibration.
        Unavailable: the server cannot be reached.
    """
    path = f"{PATH}/{calibration_id}/events"
    async for number, data in follow(connection, path, after, EVENT_TYPES):
        assert isinstance(data, CalibrationJob | CalibrationProgress | LogLine)  # noqa: S101
        yield CalibrationEvent(number, data)


def check_succeeded(calibration: CalibrationJob) -> CalibrationJob:
    """Return a calibration that has succeeded.

    Raises:
        Cancelled: it was cancelled.
        PaletteryError: the error with which it failed.
    """
    if calibration.error is not None:
        error = ERRORS.get(calibration.error.code, PaletteryError)
        raise error(calibration.error.detail)
    if calibration.state == "cancelled":
        raise Cancelled(f"the calibration {calibration.id} was cancelled")
    return calibration


async def download_calibration(
    connection: Connection, calibration: CalibrationJob, out: Path, advance: Advance
) -> Path:
    """Download the files of a calibration into a folder, as `palettery calibrate` writes them.

    Raises:
        BadInput: the folder cannot be created.
        Conflict: the calibration has not succeeded.
    """
    if calibration.result is None:
        raise Conflict(f"the calibration is {calibration.state}; it has no files")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot create the folder {out}: {error.strerror}") from error
    for name, segment in FILE_SEGMENTS.items():
        path, sha256 = f"{PATH}/{calibration.id}/{segment}", calibration.result.files_sha256[name]
        await Download(connection, path, out / name, sha256).run(advance)
    return out
