"""What happened to every tensor of a job."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from palettery.schemas.base import Schema
from palettery.schemas.config.spec import PalettizationSpec
from palettery.schemas.exports import Exported
from palettery.schemas.plan import Clustering, UnmatchedKey


class SliceOutcome(Schema):
    """What a task did with one slice; stored in the part's metadata."""

    name: str
    first_row: NonNegativeInt = 0
    action: Literal["palettized", "kept"]
    reason: str | None = None
    """Why it was kept after all, such as non-finite values; None when palettized."""
    notes: tuple[str, ...] = ()
    """What the kernel did differently from the request, such as leaving fast mode."""
    weights: NonNegativeInt
    """Elements of the slice."""
    sse: NonNegativeFloat = 0.0
    """Sum of squared errors, measured on the part as read back."""
    signal: NonNegativeFloat = 0.0
    """Sum of squared weights."""
    max_error: NonNegativeFloat = 0.0
    seconds: NonNegativeFloat = 0.0
    """Kernel time, of whoever computed it."""
    content_sha256: str | None = None
    """Hex digest of the bytes it was computed from; None when nobody asked for it."""
    reused: bool = False
    """Whether it was taken from an earlier job's result."""
    statistics_bytes: NonNegativeInt = 0
    """Of the line of its statistics in the part, behind those of the slices before it."""
    array_digests: dict[str, str] = Field(default_factory=dict)
    """XXH3 in hex of each of its arrays as stored; empty when made before there were any."""


class TensorReport(Schema):
    """One tensor's fate."""

    name: str
    """The first name it goes by."""
    aliases: tuple[str, ...] = ()
    """Every other name of the same tensor."""
    module: str
    """Dotted path of the owning module."""
    module_type: str | None
    """Fully qualified class name of that module; null when unknown."""
    dtype: str
    """Its safetensors dtype name."""
    shape: tuple[NonNegativeInt, ...]
    """Of the dense tensor."""
    action: Literal["palettized", "kept"]
    """Whether it was palettized or kept as it is."""
    rule: str | None
    """Path into the config of the rule that decided."""
    reason: str | None = None
    """Why it was kept; None when palettized."""
    notes: tuple[str, ...] = ()
    """What was done differently from the request, such as leaving fast mode."""
    spec: PalettizationSpec | None = None
    """What the config asked for; null when it is kept."""
    clustering: Clustering | None = None
    """What the spec left open; null when it is kept."""
    weighted: bool = False
    """Whether sensitivities weighted the errors that the clustering made small; sse is not."""
    groups: NonNegativeInt = 0
    """LUTs it has."""
    size_before_bytes: NonNegativeInt
    """Of the dense tensor."""
    size_after_bytes: NonNegativeInt
    """In the artifact: indices, LUTs and scales, or the tensor as it is."""
    bits_per_weight: NonNegativeFloat
    """Bits of indices, LUTs and scales per weight, as coreai-opt's `bits_per_weight` has it."""
    sse: NonNegativeFloat = 0.0
    """Sum of squared errors."""
    snr_db: float | None = None
    """10 log10(sum of squared weights / sse); None when the reconstruction is exact or kept."""
    max_error: NonNegativeFloat = 0.0
    """Largest absolute error."""
    seconds: NonNegativeFloat = 0.0
    """Kernel time; of the job that computed it, where it was reused."""
    reused: bool = False
    """Whether an earlier job had palettized the same bytes by the same spec and kernels."""


class ModuleReport(Schema):
    """A module's own tensors, those of its children not counted."""

    name: str
    """Its dotted path; empty for the root."""
    weights: NonNegativeInt
    """Elements of its tensors."""
    size_before_bytes: NonNegativeInt
    """Of its dense tensors."""
    size_after_bytes: NonNegativeInt
    """Of its tensors in the artifact."""
    bits_per_weight: NonNegativeFloat
    """Over all its weights, as coreai-opt's `bits_per_weight` counts them."""


class Report(Schema):
    """The account of a finished job, one entry per distinct tensor."""

    format_version: Literal[1] = 1
    """Goes up when a reader of the old would misread the new."""
    tensors: tuple[TensorReport, ...]
    """One entry per distinct tensor."""
    modules: tuple[ModuleReport, ...] = ()
    """One entry per module that has tensors, in their order."""
    unmatched: tuple[UnmatchedKey, ...] = ()
    """Config keys that reached no tensor."""
    warnings: tuple[str, ...] = ()
    """What else the user should know."""
    size_before_bytes: NonNegativeInt
    """Bytes of all tensors."""
    size_after_bytes: NonNegativeInt
    """Bytes of all tensors in the artifact."""
    palettized_size_before_bytes: NonNegativeInt
    """Bytes before, of the palettized tensors alone."""
    palettized_size_after_bytes: NonNegativeInt
    """Bytes after, of the palettized tensors alone."""
    bits_per_weight: NonNegativeFloat
    """Over all weights of the model, as coreai-opt's `bits_per_weight` counts them."""
    artifact_sha256: dict[str, str]
    """File name -> hex digest of the artifact's bytes."""
    exports: tuple[Exported, ...] = Field(default=(), exclude_if=lambda exports: not exports)
    """Other forms of the artifact; absent when none was asked for."""
    software: dict[str, str]
    """Name -> version."""
