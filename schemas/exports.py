"""Export formats of palettized models for deployment."""

from typing import Literal, get_args

from pydantic import Field, NonNegativeInt

from palettery.schemas.base import Schema

ExportFormat = Literal["dense", "transformers", "gguf", "torchao", "coreai", "coreml", "onnx"]
"""Formats in addition to the packed artifact, which every job writes."""
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)


class PlannedExport(Schema):
    """An export that a job is requested to write."""

    format: ExportFormat
    """Name of the format."""
    inexpressible: dict[str, str] = Field(default_factory=dict)
    """Palettized tensors that the export stores dense -> the feature that the format lacks."""


class Exported(Schema):
    """An export, verified by reading it back and comparing it with the palettes."""

    format: ExportFormat
    """Name of the format."""
    sha256: str
    """SHA-256 digest of the file, in hexadecimal."""
    size_bytes: NonNegativeInt
    """Size of the file."""
    dense: tuple[str, ...] = ()
    """Palettized tensors that are stored dense, since the format cannot express them."""
    padded: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    """Sparse tensors that store some zeros, since the format needs equally many stored weights in
    every group. Groups that store zeros need a palette entry 0, for which they may lose another
    entry. Absent if there are none."""
