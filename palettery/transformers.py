"""Importing this lets `from_pretrained` of transformers load folders that Palettery wrote."""

from palettery.app.artifacts.transformers_quantizer import PaletteryConfig, PaletteryQuantizer

__all__ = ["PaletteryConfig", "PaletteryQuantizer"]
