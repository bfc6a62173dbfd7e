"""Metadata of artifacts: the `palettery` entry of the safetensors metadata, and a summary."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from palettery.schemas.base import Schema, is_none

METADATA_KEY = "palettery"
"""Key in the metadata of a safetensors file under which the artifact's metadata is stored."""
PALETTE_KEYS = ("indices", "lut", "lut_scale", "lut_zero_point", "per_channel_scale", "mask")
"""Arrays of a palettized tensor `<name>`, each stored as `<name>.<key>` if it has one."""


class PalettizedWeight(Schema):
    """Description of one palettized weight, as needed to decode it."""

    n_bits: Literal[1, 2, 3, 4, 6, 8]
    """Bits per index."""
    cluster_dim: PositiveInt = 1
    """Weights along axis 0 that share one index; in a sparse weight, consecutive stored weights."""
    axis: Literal[0, 1] = 0
    """Axis along which channels are grouped."""
    group_size: PositiveInt | None = None
    """Number of channels that share a LUT; null for a single LUT."""
    shape: tuple[NonNegativeInt, ...]
    """Shape of the dense weight."""
    dtype: Literal["F16", "BF16", "F32", "F64"]
    """Safetensors dtype name of the dense weight."""
    stored: NonNegativeInt | None = Field(default=None, exclude_if=is_none)
    """Number of weights in the mask of a sparse weight, which alone have an index; the others are
    zero. Absent if all weights have an index."""


class ArtifactMetadata(Schema):
    """Metadata of an artifact: how to decode it, and what it was made from."""

    format_version: Literal[1] = 1
    """Version of the format, increased by incompatible changes."""
    weights: dict[str, PalettizedWeight]
    """Palettized weights, by the name of the dense weight."""
    tied: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Further names of tied tensors, by the tensor's first name."""
    source_sha256: dict[str, str] = Field(default_factory=dict)
    """SHA-256 digests of the uploaded files in hexadecimal, by file name."""
    sensitivities_sha256: dict[str, str] = Field(
        default_factory=dict, exclude_if=lambda digests: not digests
    )
    """SHA-256 digests of the sensitivity files, by file name; absent if there are none."""
    config_sha256: str
    """SHA-256 digest of the config's canonical JSON."""
    plan_sha256: str
    """SHA-256 digest of the plan's canonical JSON."""
    software: dict[str, str] = Field(default_factory=dict)
    """Versions of the software that wrote the artifact, by package name."""


class StoredWeight(Schema):
    """A palettized weight and its size in the artifact."""

    name: str
    """Name of the dense weight."""
    weight: PalettizedWeight
    """Description of the palettized weight."""
    size_bytes: NonNegativeInt
    """Size of its indices, LUTs, scales and mask."""


class ArtifactSummary(Schema):
    """Contents of an artifact."""

    palettized: tuple[StoredWeight, ...]
    """All palettized weights, in the order of the artifact."""
    kept: dict[str, NonNegativeInt]
    """Sizes in bytes of the unchanged tensors, by name."""
    software: dict[str, str]
    """Versions of the software that wrote the artifact, by package name."""
