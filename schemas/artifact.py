"""What the artifact says about itself, in the `palettery` entry of its safetensors metadata."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from palettery.schemas.base import Schema

METADATA_KEY = "palettery"
"""Of the metadata of its files, where the one that they have in common stands."""
PALETTE_KEYS = ("indices", "lut", "lut_scale", "lut_zero_point", "per_channel_scale")
"""What a palettized `<name>` is stored as, each under `<name>.<key>`; absent ones are left out."""


class PalettizedWeight(Schema):
    """How to read one palettized weight."""

    n_bits: Literal[1, 2, 3, 4, 6, 8]
    """Bits per index."""
    cluster_dim: PositiveInt = 1
    """Weights along axis 0 that share one index."""
    axis: Literal[0, 1] = 0
    """Group axis."""
    group_size: PositiveInt | None = None
    """Channels that share a LUT; None for one LUT."""
    shape: tuple[NonNegativeInt, ...]
    """Of the dense weight."""
    dtype: Literal["F16", "BF16", "F32", "F64"]
    """Of the dense weight, as a safetensors dtype name."""


class ArtifactMetadata(Schema):
    """Everything needed to decode an artifact, and where it came from."""

    format_version: Literal[1] = 1
    """Goes up when a reader of the old would misread the new."""
    weights: dict[str, PalettizedWeight]
    """Name of the dense weight -> how to read it."""
    tied: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Name -> the other names that share the tensor."""
    source_sha256: dict[str, str] = Field(default_factory=dict)
    """Uploaded file name -> hex digest."""
    sensitivities_sha256: dict[str, str] = Field(
        default_factory=dict, exclude_if=lambda digests: not digests
    )
    """Uploaded file of sensitivities -> hex digest; absent when none were given."""
    config_sha256: str
    """Of the config's canonical JSON."""
    plan_sha256: str
    """Of the plan's canonical JSON."""
    software: dict[str, str] = Field(default_factory=dict)
    """Name -> version."""


class StoredWeight(Schema):
    """A palettized weight and what it takes."""

    name: str
    """Of the dense weight."""
    weight: PalettizedWeight
    """How to read it."""
    size_bytes: NonNegativeInt
    """Indices, LUTs and scales."""


class ArtifactSummary(Schema):
    """What an artifact holds."""

    palettized: tuple[StoredWeight, ...]
    """Every palettized weight, in order."""
    kept: dict[str, NonNegativeInt]
    """Untouched tensor -> bytes."""
    software: dict[str, str]
    """What made it: name -> version."""
