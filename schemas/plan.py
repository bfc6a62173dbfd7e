"""Plans: what a job will do with every tensor, and why."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from palettery.schemas.base import Schema, is_empty, is_none
from palettery.schemas.checkpoint import TypeSource
from palettery.schemas.config.spec import PalettizationSpec
from palettery.schemas.config.vector_kmeans import VectorKMeansConfig
from palettery.schemas.exports import PlannedExport


class Clustering(Schema):
    """Clustering parameters of one tensor that are not part of its spec, with defaults resolved."""

    axis: Literal[0, 1]
    """Group axis; the default of the operation if the spec has none."""
    group_size: PositiveInt | None
    """Number of channels per palette; null for one palette per tensor."""
    rounding_precision: PositiveInt | None
    """Decimals to which fast mode rounds values before clustering; null if fast mode is off."""
    vector_kmeans: VectorKMeansConfig | None = Field(default=None, exclude_if=is_none)
    """K-means settings of vector palettes; absent for the defaults, and for scalar palettes."""


class PlannedTensor(Schema):
    """Plan for one distinct tensor."""

    name: str
    """First name of the tensor."""
    aliases: tuple[str, ...] = ()
    """Further names of the same tensor."""
    dtype: str
    """Safetensors dtype name of the tensor."""
    shape: tuple[NonNegativeInt, ...]
    """Shape of the dense tensor."""
    size_bytes: NonNegativeInt
    """Size of the dense tensor."""
    module: str
    """Dotted path of the module that owns the tensor."""
    module_type: str | None
    """Fully qualified class name of that module; null if unknown."""
    type_source: TypeSource
    """Source of the class name: a graph, a Hugging Face config, or the tensor names."""
    op: str | None = None
    """Name of the operation that reads the tensor; null if no known operation does."""
    action: Literal["palettize", "keep"]
    """Whether the tensor will be palettized or kept unchanged."""
    rule: str | None
    """Path in the config of the rule that applies, such as
    `global_config.op_state_spec["weight"]`; null if no rule matches the tensor."""
    reason: str | None = None
    """Reason why the tensor is kept; null if it is palettized."""
    incompatible: bool = False
    """Whether the tensor is kept because it does not support the spec of the matching rule."""
    weighted: bool = False
    """Whether uploaded sensitivities weight the errors of the tensor."""
    feedback: bool = Field(default=False, exclude_if=is_empty)
    """Whether error feedback with a calibration's second moments is used; absent if not."""
    spec: PalettizationSpec | None = None
    """Palettization spec from the config; null if the tensor is kept."""
    clustering: Clustering | None = None
    """Clustering parameters that complete the spec; null if the tensor is kept."""
    groups: NonNegativeInt = 0
    """Number of LUTs."""
    predicted_bytes: NonNegativeInt
    """Predicted size in the artifact: indices, LUTs and scales, or the unchanged tensor; the upper
    bound if the size depends on the number of zeros."""
    least_bytes: NonNegativeInt | None = Field(default=None, exclude_if=is_none)
    """Lower bound of the size of a tensor that may be sparse; absent if the size is exact."""


class UnmatchedKey(Schema):
    """A config key that matches no tensor."""

    path: str
    """Path of the key in the config."""
    reason: str
    """Reason why the key matches nothing."""
    suggestions: tuple[str, ...] = ()
    """Similar keys that would match."""


class LeftOutEmbeddings(Schema):
    """Large embeddings that the config leaves out, as coreai-opt's defaults do."""

    tensors: tuple[str, ...]
    """First names of the tensors."""
    size_bytes: NonNegativeInt
    """Total size of the dense tensors."""
    predicted_bytes: NonNegativeInt
    """Total size in the artifact with the rule."""
    rule: dict[str, Any]
    """Part of a config that palettizes them, to be merged into the config."""
    warning: str
    """Text of the plan's warning about them."""


class Plan(Schema):
    """Plan of a job, computed from the config and the headers of the uploaded files."""

    format_version: Literal[1] = 1
    """Version of the format, increased by incompatible changes."""
    tensors: tuple[PlannedTensor, ...]
    """Plan for each distinct tensor."""
    unmatched: tuple[UnmatchedKey, ...] = ()
    """Config keys that match no tensor."""
    warnings: tuple[str, ...] = ()
    """Further warnings."""
    left_out_embeddings: LeftOutEmbeddings | None = Field(default=None, exclude_if=is_none)
    """Large embeddings that the config leaves out, with the rule that includes them; absent if
    there are none."""
    sensitivities_sha256: dict[str, str] = Field(default_factory=dict)
    """SHA-256 digests of the sensitivity files in hexadecimal, by file name."""
    second_moments_sha256: dict[str, str] = Field(default_factory=dict, exclude_if=is_empty)
    """SHA-256 digests of the files of second moments in hexadecimal; absent if none are used."""
    size_before_bytes: NonNegativeInt
    """Total size of all tensors."""
    predicted_size_bytes: NonNegativeInt
    """Predicted total size of all tensors in the artifact; an upper bound if some may be sparse."""
    least_size_bytes: NonNegativeInt | None = Field(default=None, exclude_if=is_none)
    """Lower bound of the total size if some tensors may be sparse; absent if the size is exact."""
    exports: tuple[PlannedExport, ...] = Field(default=(), exclude_if=lambda exports: not exports)
    """Requested exports; absent if there are none."""

    def palettized(self) -> tuple[PlannedTensor, ...]:
        """Return the tensors that will be palettized, in order."""
        return tuple(tensor for tensor in self.tensors if tensor.action == "palettize")
