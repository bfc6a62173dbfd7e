"""Calibrations: sensitivities of a model's weights, and second moments of its layers' inputs."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from palettery.schemas.base import Schema

CalibrationKind = Literal["outputs", "fisher"]


class CalibrationOptions(Schema):
    """Options of a calibration."""

    kind: CalibrationKind = "outputs"
    """`outputs` measures how much a weight moves all outputs; `fisher`, for logits, how much it
    moves the probabilities of classes, with labels drawn from the model itself."""
    outputs: tuple[str, ...] = Field(default=(), max_length=1_000)
    """Names of the outputs to use; all floating-point ones if empty."""
    draws: PositiveInt = Field(default=1, le=1024)
    """Random directions for each sample; more reduce noise, and take proportionally longer."""
    batch: PositiveInt = Field(default=8, le=4096)
    """Samples that run at once, if the model supports any batch size."""
    seed: NonNegativeInt = Field(default=0, le=(1 << 63) - 1)
    """Seed of the random directions."""


class CalibratedTensor(Schema):
    """One weight of a calibration."""

    name: str
    """Name in the model that was calibrated, and in `sensitivities.safetensors`."""
    aliases: tuple[str, ...] = ()
    """Further names of the same weight."""
    sha256: str
    """SHA-256 digest of its values, which identifies it in other files of the same model."""
    second_moments: str | None = None
    """Name of its layer's input in `second_moments.safetensors`, of shape [inputs, inputs], or
    [groups, inputs, inputs] for grouped convolutions; null if there is none. Layers with the same
    input share one."""


class CalibrationResult(Schema):
    """Result of the sandboxed process that ran the model."""

    samples: PositiveInt
    """Number of samples."""
    sample_sha256: tuple[str, ...]
    """Digest of each sample."""
    outputs: dict[str, PositiveFloat]
    """Outputs that were used -> the standard deviation by which each was divided."""
    second_moments: dict[str, str]
    """Weight -> name of its layer's input in `second_moments.safetensors`."""
    unreached: tuple[str, ...]
    """Weights that no input reached, or on which no output depends; they have no sensitivities."""
    warnings: tuple[str, ...] = ()


class Calibration(Schema):
    """The file `calibration.json`."""

    options: CalibrationOptions
    samples: PositiveInt
    """Number of samples."""
    sample_sha256: tuple[str, ...]
    """Digest of each sample, which identifies samples that an evaluation uses again."""
    outputs: dict[str, PositiveFloat]
    """Outputs that were used -> the standard deviation by which each was divided."""
    tensors: tuple[CalibratedTensor, ...]
    """Weights with sensitivities."""
    unreached: tuple[str, ...]
    """Weights that no input reached, or on which no output depends; they have no sensitivities."""
    warnings: tuple[str, ...] = ()


class CalibrationSummary(Schema):
    """Summary of a calibration's result, with its files, but without its list of tensors."""

    samples: PositiveInt
    """Number of samples."""
    outputs: dict[str, PositiveFloat]
    """Outputs that were used -> the standard deviation by which each was divided; at most 1,000."""
    tensors: NonNegativeInt
    """Number of weights with sensitivities."""
    unreached: tuple[str, ...]
    """Weights that no input reached, or on which no output depends; they have no sensitivities. The
    first 1,000; the report has all."""
    warnings: tuple[str, ...] = ()
    """Warnings about the inputs."""
    files_sha256: dict[str, str]
    """SHA-256 digests in hexadecimal of its files, by name."""
    size_bytes: NonNegativeInt
    """Total size of its files."""
