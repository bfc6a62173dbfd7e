"""What a job will do with every tensor, and why."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from palettery.schemas.base import Schema
from palettery.schemas.checkpoint import TypeSource
from palettery.schemas.config.spec import PalettizationSpec
from palettery.schemas.exports import PlannedExport


class Clustering(Schema):
    """What a spec leaves open, settled for one tensor."""

    axis: Literal[0, 1]
    """Group axis, the op's default filled in."""
    group_size: PositiveInt | None
    """Channels per palette; None for one palette per tensor."""
    rounding_precision: PositiveInt | None
    """Decimals to round to before clustering (fast mode); None clusters the values as they are."""


class PlannedTensor(Schema):
    """One distinct tensor and what will happen to it."""

    name: str
    """The first name it goes by."""
    aliases: tuple[str, ...] = ()
    """Every other name of the same tensor."""
    dtype: str
    """Its safetensors dtype name."""
    shape: tuple[NonNegativeInt, ...]
    """Of the dense tensor."""
    size_bytes: NonNegativeInt
    """Of the dense tensor."""
    module: str
    """Dotted path of the owning module."""
    module_type: str | None
    """Fully qualified class name of that module; null when unknown."""
    type_source: TypeSource
    """Where the module type comes from."""
    op: str | None = None
    """Name of the op that consumes it; None when no registered op does."""
    action: Literal["palettize", "keep"]
    """Whether it is palettized or kept as it is."""
    rule: str | None
    """Path into the config of the rule that decided, such as
    `global_config.op_state_spec["weight"]`; None when no rule reached the tensor."""
    reason: str | None = None
    """Why it is kept; None when it is palettized."""
    incompatible: bool = False
    """Whether it is kept though a rule asks for it, since it cannot take what is asked."""
    weighted: bool = False
    """Whether the upload's sensitivities weigh the errors of its weights."""
    spec: PalettizationSpec | None = None
    """What the config asks for; set exactly when it is palettized."""
    clustering: Clustering | None = None
    """What the spec leaves open; set exactly when it is palettized."""
    groups: NonNegativeInt = 0
    """LUTs it will get."""
    predicted_bytes: NonNegativeInt
    """Bytes in the artifact: indices, LUTs and scales, or the tensor as it is."""


class UnmatchedKey(Schema):
    """A config key that reached no tensor."""

    path: str
    """Path into the config."""
    reason: str
    """Why it reached none."""
    suggestions: tuple[str, ...] = ()
    """Keys that would have matched."""


class Plan(Schema):
    """Every tensor's fate, computed from the config and the uploaded headers alone."""

    format_version: Literal[1] = 1
    """Goes up when a reader of the old would misread the new."""
    tensors: tuple[PlannedTensor, ...]
    """One entry per distinct tensor."""
    unmatched: tuple[UnmatchedKey, ...] = ()
    """Config keys that reached no tensor."""
    warnings: tuple[str, ...] = ()
    """What else the user should know."""
    sensitivities_sha256: dict[str, str] = Field(default_factory=dict)
    """Uploaded file of sensitivities -> hex digest."""
    size_before_bytes: NonNegativeInt
    """Bytes of all tensors."""
    predicted_size_bytes: NonNegativeInt
    """Bytes of all tensors in the artifact, to be expected."""
    exports: tuple[PlannedExport, ...] = Field(default=(), exclude_if=lambda exports: not exports)
    """What other forms can express of it; absent when none was asked for."""

    def palettized(self) -> tuple[PlannedTensor, ...]:
        """The tensors that will be palettized, in order."""
        return tuple(tensor for tensor in self.tensors if tensor.action == "palettize")
