"""The palettization language: coreai-opt's config hierarchy as closed, frozen models."""

from palettery.schemas.config.document import config_of, parse_config
from palettery.schemas.config.errors import ConfigError
from palettery.schemas.config.granularity import Granularity, PerGroupedChannel, PerTensor
from palettery.schemas.config.lut import QuantizationSpec
from palettery.schemas.config.model import KMeansPalettizerConfig
from palettery.schemas.config.module import ModuleKMeansPalettizerConfig, OpKMeansPalettizerConfig
from palettery.schemas.config.presets import PRESETS, w4, w6, w8
from palettery.schemas.config.spec import PalettizationSpec

__all__ = [
    "PRESETS",
    "ConfigError",
    "Granularity",
    "KMeansPalettizerConfig",
    "ModuleKMeansPalettizerConfig",
    "OpKMeansPalettizerConfig",
    "PalettizationSpec",
    "PerGroupedChannel",
    "PerTensor",
    "QuantizationSpec",
    "config_of",
    "parse_config",
    "w4",
    "w6",
    "w8",
]
