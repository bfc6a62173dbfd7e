"""Forms in which a palettized model goes where it is deployed."""

from typing import Literal

ExportFormat = Literal["dense", "torchao"]
"""Beside the packed artifact, which there always is."""
