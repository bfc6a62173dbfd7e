"""Forms in which a palettized model goes where it is deployed."""

from typing import Literal, get_args

from pydantic import Field, NonNegativeInt

from palettery.schemas.base import Schema

ExportFormat = Literal["dense", "torchao", "coreai", "coreml"]
"""Beside the packed artifact, which there always is."""
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)


class PlannedExport(Schema):
    """A form that a job is asked for."""

    format: ExportFormat
    """Its name."""
    inexpressible: dict[str, str] = Field(default_factory=dict)
    """Palettized tensor -> what the format lacks for it, so that it would be dense in there."""


class Exported(Schema):
    """An artifact in another form, read back and compared with LUT[indices]."""

    format: ExportFormat
    """Its name."""
    sha256: str
    """Hex digest of its file."""
    size_bytes: NonNegativeInt
    """Of its file."""
    dense: tuple[str, ...] = ()
    """Palettized tensors that are dense in it, since the format cannot express them."""
