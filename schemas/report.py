"""Reports: what a job did with every tensor."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from palettery.schemas.base import Schema, is_none
from palettery.schemas.config.spec import PalettizationSpec
from palettery.schemas.evaluation import Evaluation
from palettery.schemas.exports import Exported
from palettery.schemas.plan import Clustering, UnmatchedKey
from palettery.schemas.targets import Allocation

ErrorMethod = Literal["plain", "sensitivities", "feedback"]


class OutputError(Schema):
    """Expected errors of a layer's outputs: means over the inputs of the calibration."""

    sse: NonNegativeFloat
    """Squared error, summed over the outputs."""
    signal: NonNegativeFloat
    """Squared outputs, summed over the outputs."""
    plain_sse: NonNegativeFloat
    """Squared error of the palette that was computed without error feedback."""


class SliceOutcome(Schema):
    """Result of a task for one slice, stored in the metadata of the part."""

    name: str
    first_row: NonNegativeInt = 0
    action: Literal["palettized", "kept"]
    reason: str | None = None
    """Reason why the slice was kept, such as non-finite values; null if it was palettized."""
    notes: tuple[str, ...] = ()
    """Deviations of the kernel from the spec, such as exact clustering in spite of fast mode."""
    weights: NonNegativeInt
    """Number of elements of the slice."""
    stored: NonNegativeInt | None = Field(default=None, exclude_if=is_none)
    """Number of weights that have an index, in a sparse slice; absent if all weights have one."""
    sse: NonNegativeFloat = 0.0
    """Sum of squared errors, measured on the part as stored."""
    signal: NonNegativeFloat = 0.0
    """Sum of squared weights."""
    max_error: NonNegativeFloat = 0.0
    output: OutputError | None = Field(default=None, exclude_if=is_none)
    """Errors of the layer's outputs; absent without error feedback."""
    seconds: NonNegativeFloat = 0.0
    """Kernel time in the job that computed the slice."""
    content_sha256: str | None = None
    """Digest of the input bytes in hexadecimal; null if not requested."""
    reused: bool = False
    """Whether the result of an earlier job was reused."""
    statistics_bytes: NonNegativeInt = 0
    """Size of the slice's line of statistics in the part."""
    array_digests: dict[str, str] = Field(default_factory=dict)
    """XXH3 digests of the stored arrays, in hexadecimal; empty in old results."""


class TensorReport(Schema):
    """Report on one distinct tensor."""

    name: str
    """First name of the tensor."""
    aliases: tuple[str, ...] = ()
    """Further names of the same tensor."""
    module: str
    """Dotted path of the module that owns the tensor."""
    module_type: str | None
    """Fully qualified class name of that module; null if unknown."""
    dtype: str
    """Safetensors dtype name of the tensor."""
    shape: tuple[NonNegativeInt, ...]
    """Shape of the dense tensor."""
    action: Literal["palettized", "kept"]
    """Whether the tensor was palettized or kept unchanged."""
    rule: str | None
    """Path in the config of the rule that applied; null if no rule matched."""
    reason: str | None = None
    """Reason why the tensor was kept; null if it was palettized."""
    notes: tuple[str, ...] = ()
    """Deviations from the spec, such as exact clustering in spite of fast mode."""
    spec: PalettizationSpec | None = None
    """Palettization spec from the config; null if the tensor was kept."""
    clustering: Clustering | None = None
    """Clustering parameters that complete the spec; null if the tensor was kept."""
    weighted: bool = False
    """Whether sensitivities weighted the errors in the clustering; `sse` is not weighted."""
    method: ErrorMethod | None = None
    """Error that the palettes minimise: `plain`, the squared error of the weights;
    `sensitivities`, the same weighted; `feedback`, the error of the layer's outputs. Null if the
    tensor was kept."""
    output_error: NonNegativeFloat | None = Field(default=None, exclude_if=is_none)
    """Expected relative error of the layer's outputs on inputs like those of the calibration:
    squared error over squared outputs, of this layer alone. Absent without error feedback."""
    output_error_without_feedback: NonNegativeFloat | None = Field(default=None, exclude_if=is_none)
    """The same error that the tensor would have without error feedback."""
    groups: NonNegativeInt = 0
    """Number of LUTs."""
    size_before_bytes: NonNegativeInt
    """Size of the dense tensor."""
    size_after_bytes: NonNegativeInt
    """Size in the artifact: indices, LUTs and scales, or the unchanged tensor."""
    bits_per_weight: NonNegativeFloat
    """Bits of indices, LUTs, scales and mask per weight; without a mask, equal to coreai-opt's
    `bits_per_weight`."""
    zero_share: float | None = Field(default=None, exclude_if=is_none)
    """Share of the weights that the mask keeps at zero; absent if the tensor is not sparse."""
    mask_bytes: NonNegativeInt | None = Field(default=None, exclude_if=is_none)
    """Size of the mask; absent if the tensor is not sparse."""
    coreai_opt_bits_per_weight: NonNegativeFloat | None = Field(default=None, exclude_if=is_none)
    """Bits per weight of a sparse tensor as coreai-opt's `bits_per_weight` counts them: without the
    mask, and with indices for zeros unless entries are vectors. Absent if not sparse."""
    sse: NonNegativeFloat = 0.0
    """Sum of squared errors."""
    snr_db: float | None = None
    """Signal-to-noise ratio of the weights, not of outputs, in decibels; null if the tensor was
    kept or its error is zero."""
    max_error: NonNegativeFloat = 0.0
    """Largest absolute error."""
    seconds: NonNegativeFloat = 0.0
    """Kernel time; for a reused result, that of the job that computed it."""
    reused: bool = False
    """Whether the result of an earlier job with the same bytes, spec and kernels was reused."""


class ModuleReport(Schema):
    """Report on the tensors of one module, without those of its children."""

    name: str
    """Dotted path of the module; empty for the root."""
    weights: NonNegativeInt
    """Number of elements of its tensors."""
    size_before_bytes: NonNegativeInt
    """Total size of its dense tensors."""
    size_after_bytes: NonNegativeInt
    """Total size of its tensors in the artifact."""
    bits_per_weight: NonNegativeFloat
    """Average bits per weight of the module, as defined by coreai-opt's `bits_per_weight`."""


class Report(Schema):
    """Report on a finished job."""

    format_version: Literal[1] = 1
    """Version of the format, increased by incompatible changes."""
    evaluation: Evaluation | None = Field(default=None, exclude_if=is_none)
    """Effect on the model's outputs; absent if no evaluation was requested."""
    tensors: tuple[TensorReport, ...]
    """Report on each distinct tensor."""
    modules: tuple[ModuleReport, ...] = ()
    """Report on each module that has tensors, in the order of the model."""
    unmatched: tuple[UnmatchedKey, ...] = ()
    """Config keys that match no tensor."""
    warnings: tuple[str, ...] = ()
    """Further warnings."""
    size_before_bytes: NonNegativeInt
    """Total size of all tensors."""
    size_after_bytes: NonNegativeInt
    """Total size of all tensors in the artifact."""
    palettized_size_before_bytes: NonNegativeInt
    """Total size of the palettized tensors before palettization."""
    palettized_size_after_bytes: NonNegativeInt
    """Total size of the palettized tensors in the artifact."""
    bits_per_weight: NonNegativeFloat
    """Average bits per weight of the model, as defined by coreai-opt's `bits_per_weight`."""
    artifact_sha256: dict[str, str]
    """SHA-256 digests of the artifact's files in hexadecimal, by file name."""
    allocation: Allocation | None = Field(default=None, exclude_if=is_none)
    """Config and specs chosen for the target, with the predicted size and expected errors; absent
    without a target."""
    exports: tuple[Exported, ...] = Field(default=(), exclude_if=lambda exports: not exports)
    """Exports of the artifact; absent if none was requested."""
    software: dict[str, str]
    """Versions of the software that wrote the artifact, by package name."""
