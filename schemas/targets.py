"""Targets of jobs: a required size, error or quality, and the specs chosen to reach it."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from palettery.schemas.base import Schema, is_none
from palettery.schemas.config import KMeansPalettizerConfig, PalettizationSpec
from palettery.schemas.config.errors import describe_errors
from palettery.schemas.config.granularity import (
    Granularity,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
)
from palettery.schemas.config.limits import MAX_INT64
from palettery.schemas.evaluation import PERCENTILES, Quality
from palettery.schemas.exports import ExportFormat
from palettery.schemas.plan import Plan

Bits = Literal[1, 2, 3, 4, 6, 8]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
UNITS: Final = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
"""Units of sizes, in bytes."""
EXAMPLES: Final = (
    "write it like 16MB (or kB, GB, KiB, MiB, GiB), 3.5bpw, 0.25x or, in quotes, 'cosine>=0.98'"
)
_TEXT: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]+)")
_QUALITY: Final = re.compile(r"([A-Za-z0-9_.]{1,32})\s*>=\s*(-?\d{1,15}(?:\.\d{1,15})?)")
_MEASURES: Final[Mapping[str, Mapping[str, int | None]]] = {
    **{name: {"percentile": percentile} for percentile, name in PERCENTILES.items()},
    **{name: {} for name in ("snr_db", "top1", "accuracy")},
}
"""Measure in a text -> the other fields of its `Quality`."""
_BY_LOWER: Final = {unit.lower(): size for unit, size in UNITS.items()}


class Target(Schema):
    """A required size, error or quality: one field, or text such as `16MB` or `cosine>=0.98`."""

    size_bytes: Annotated[PositiveInt, Field(le=MAX_INT64)] | None = None
    """Largest size of the artifact's files, headers included."""
    bits_per_weight: Ratio | None = None
    """Largest size of the artifact's files in bits for each weight of the model."""
    size_ratio: Ratio | None = None
    """Largest size of the artifact's files as a share of the model's tensors."""
    error: Positive | None = None
    """Largest expected error, in the unit of the scores; the artifact is as small as it allows."""
    quality: Quality | None = None
    """Least quality on the inputs of `evaluate`; the artifact is the smallest one measured that
    reaches it."""

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        return target_fields(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_one(self) -> "Target":
        fields = [name for name, value in self if value is not None]
        if len(fields) != 1:
            allowed = ", ".join(type(self).model_fields)
            got = " and ".join(fields) or "none"
            raise ValueError(f"a target is one of {allowed}; got {got}")
        return self


def target_fields(text: str) -> dict[str, Any]:
    """Return the field of a target that a text such as `16MB`, `3.5bpw` or `cosine>=0.98` means.

    Raises:
        ValueError: it has another form, an unknown unit or measure, or a value out of range.
    """
    if (quality := _QUALITY.fullmatch(text.strip())) is not None:
        return {"quality": _quality(text, quality[1], float(quality[2]))}
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"the target {text[:64]!r} is no number with a unit; {EXAMPLES}")
    number, unit = float(match[1]), match[2].lower()
    value: float
    if unit in _BY_LOWER:
        field, value = "size_bytes", math.floor(number * _BY_LOWER[unit])
    elif unit in ("bpw", "x"):
        field, value = ("bits_per_weight" if unit == "bpw" else "size_ratio"), number
    else:
        raise ValueError(f"the target {text[:64]!r} has the unknown unit {match[2]!r}; {EXAMPLES}")
    if not value:
        raise ValueError(f"the target {text[:64]!r} is not above 0; {EXAMPLES}")
    return {field: value}


def _quality(text: str, measure: str, least: float) -> Quality:
    if measure not in _MEASURES:
        raise ValueError(
            f"the target {text[:64]!r} has the unknown measure {measure!r}; name one of "
            f"{', '.join(_MEASURES)}"
        )
    field = measure.partition(".")[0]
    try:
        return Quality.model_validate({field: least, **_MEASURES[measure]})
    except ValidationError as error:
        reason = describe_errors(error, Quality)[0].detail
        raise ValueError(f"the target {text[:64]!r} is out of range: {reason}") from error


class Choices(Schema):
    """Specs that a target may choose for each tensor that no rule of the config sets."""

    n_bits: Annotated[Sequence[Bits], AfterValidator(tuple)] = Field(
        default=(1, 2, 3, 4, 6, 8), min_length=1
    )
    """Bits per index."""
    granularities: Annotated[Sequence[Granularity], AfterValidator(tuple)] = Field(
        default=(
            PerTensorGranularity(type="per_tensor"),
            PerGroupedChannelGranularity(type="per_grouped_channel", group_size=16),
        ),
        min_length=1,
    )
    """Channels that share a palette. If the axis is null, it is the operation's default, or the
    other axis if only its length is divisible."""
    keep: bool = True
    """Whether a tensor may stay unchanged."""
    min_bits: Mapping[str, Bits] = Field(default_factory=dict)
    """Regular expression on the module's whole dotted name -> fewest bits of its tensors."""
    max_bits: Mapping[str, Bits] = Field(default_factory=dict)
    """Regular expression on the module's whole dotted name -> most bits; such tensors are not
    kept."""
    same: Annotated[Sequence[Sequence[str]], AfterValidator(tuple)] = ()
    """Lists of regular expressions on the last part of modules' names, such as `["q_proj",
    "k_proj", "v_proj"]`: modules of one parent that match one list are palettized alike."""
    formats: Annotated[Sequence[ExportFormat], AfterValidator(tuple)] = ()
    """Export formats that must be able to express every choice."""


class ScoredChoice(Schema):
    """Error and size of one tensor with one spec."""

    spec: PalettizationSpec
    error: float
    """Sum of squared errors; with sensitivities, each times its sensitivity."""
    size_bytes: NonNegativeInt
    """Bytes of indices and LUTs in the artifact."""


class TensorScores(Schema):
    """Scores of one tensor."""

    choices: tuple[ScoredChoice, ...] = ()
    """Scores of its specs; none if it cannot be palettized."""
    signal: float = 0.0
    """Sum of squared weights; with sensitivities, each times its sensitivity."""
    reason: str | None = None
    """Reason why it cannot be palettized; null if it can."""


class ModelScores(Schema):
    """Scores of all tensors that a target may change; no kernel runs for another target."""

    format_version: Literal[1] = 1
    """Version of the format, increased by incompatible changes."""
    weighted: bool
    """Whether errors are weighted with sensitivities."""
    tensors: dict[str, TensorScores]
    """Scores by tensor name."""


class ChosenTensor(Schema):
    """Spec chosen for one tensor."""

    name: str
    """First name of the tensor."""
    spec: PalettizationSpec | None
    """Its spec; null to keep it."""
    size_bytes: NonNegativeInt
    """Bytes in the artifact, without its part of the header."""
    error: float
    """Expected error; relative to the tensor's energy if there are no sensitivities."""


class CurvePoint(Schema):
    """The least expected error at one size."""

    size_bytes: NonNegativeInt
    """Size of the artifact's files; an upper bound that is too large by the padding of headers."""
    error: float
    """Expected error."""
    exact: bool
    """Whether no choice of at most this size has an error that is smaller by over 1e-6 of it."""


class UniformPoint(Schema):
    """Size and expected error if all tensors get the same bits."""

    n_bits: Bits
    """Bits of every tensor that can have them; the others get their best choice."""
    group_size: PositiveInt | None
    """Channels that share a palette; null for one palette a tensor."""
    size_bytes: NonNegativeInt
    """Size of the artifact's files, as for `CurvePoint`."""
    error: float
    """Expected error."""


class MeasuredSize(Schema):
    """One artifact that was measured in the search for a required quality."""

    limit_bytes: NonNegativeInt
    """Size that was tried: of all artifacts of at most this size, it is the one with the least
    expected error."""
    size_bytes: NonNegativeInt
    """Size of its files."""
    error: float
    """Expected error."""
    reached: dict[str, float]
    """Name of each required measure, such as `cosine.p5` -> its value for the worst output."""
    is_reached: bool
    """Whether it reaches the required quality."""


class Allocation(Schema):
    """Config and specs chosen to reach a target."""

    config: KMeansPalettizerConfig
    """Config that plans exactly this choice."""
    size_bytes: NonNegativeInt
    """Size of the artifact's files, headers included; an upper bound if some tensors may be
    sparse."""
    target_bytes: NonNegativeInt | None = None
    """Largest size that the target allows; null if it is an error or a quality."""
    error: float
    """Expected error: the sum over the tensors that the target could change."""
    gap: float
    """Relative difference of the error, or of the size, to a bound that no choice is below."""
    weighted: bool
    """Whether errors are weighted with sensitivities."""
    notes: tuple[str, ...]
    """Notes on the quality, and on a size well below the target."""
    tensors: tuple[ChosenTensor, ...]
    """The tensors that the target could change."""
    curve: tuple[CurvePoint, ...] = ()
    """Least errors by size, ascending; empty if it was not requested."""
    uniform: tuple[UniformPoint, ...] = ()
    """Sizes and errors with the same bits for all tensors, to compare; empty without a curve."""
    measured: tuple[MeasuredSize, ...] = Field(default=(), exclude_if=lambda sizes: not sizes)
    """Artifacts measured in the search for a quality, in order; absent for other targets."""


class PlannedJob(Plan):
    """Plan of a job, with the specs chosen for its target if it has one."""

    allocation: Allocation | None = Field(default=None, exclude_if=is_none)
    """Specs that reach the target, and the least error at every size; absent without a target."""
