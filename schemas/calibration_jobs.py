"""Calibrations on a server, and requests for them."""

from datetime import datetime

from pydantic import NonNegativeInt

from palettery.schemas.base import Schema
from palettery.schemas.calibration import CalibrationOptions, CalibrationSummary
from palettery.schemas.jobs import JobState
from palettery.schemas.problem import Problem
from palettery.schemas.uploads import Digest, InputsId, list_ids


class NewCalibration(CalibrationOptions):
    """Request to calibrate a model on inputs; both were uploaded before."""

    model_id: Digest
    """Id of the model: a `.pt2`, or the files of a Hugging Face folder."""
    inputs_id: InputsId
    """Id of the uploaded inputs, a safetensors file with the model's inputs by name; several ids
    for inputs of different lengths."""

    def inputs(self) -> tuple[str, ...]:
        """Return the ids of the inputs."""
        return list_ids(self.inputs_id)

    def options(self) -> CalibrationOptions:
        """Return the options without the model and its inputs."""
        return CalibrationOptions(**self.model_dump(include=set(CalibrationOptions.model_fields)))


class CalibrationProgress(Schema):
    """Progress of a calibration."""

    samples_done: NonNegativeInt = 0
    """Samples that have run."""
    samples_total: NonNegativeInt = 0
    """Number of all samples; 0 until the first have run."""


class CalibrationJob(Schema):
    """A calibration on the server."""

    id: str
    """Id of the calibration, ordered by time."""
    state: JobState
    """First queued, then running, then succeeded, failed or cancelled."""
    owner: str
    """Owner of the calibration."""
    model_id: str
    """Id of the model."""
    model_name: str
    """Name of the model's first file."""
    inputs_ids: tuple[str, ...]
    """Ids of the inputs."""
    options: CalibrationOptions
    """Options of the calibration."""
    created_at: datetime
    """Time of the request."""
    started_at: datetime | None = None
    """Start of the current attempt; null while it is queued."""
    ended_at: datetime | None = None
    """Time at which it succeeded, failed or was cancelled; null until then."""
    attempt: NonNegativeInt = 0
    """Number of retries."""
    expires_at: datetime | None = None
    """Time at which it is deleted; null until it has ended."""
    progress: CalibrationProgress = CalibrationProgress()
    """Progress of the current attempt."""
    result: CalibrationSummary | None = None
    """Result; null until it has succeeded."""
    error: Problem | None = None
    """Reason of the failure; null if it has not failed."""
    links: dict[str, str]
    """Paths: `self`, `events`, `model`; `cancel` until it has ended; then `sensitivities`,
    `second_moments` and `report`, or `retry`."""


class CalibrationPage(Schema):
    """One page of calibrations, newest first."""

    items: tuple[CalibrationJob, ...]
    """Calibrations of this page."""
    next_cursor: str | None = None
    """Value of `cursor` for the next page; null on the last."""
