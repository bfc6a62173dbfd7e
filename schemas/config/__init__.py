"""The palettization language: coreai-opt's config hierarchy as closed, frozen models."""

from schemas.config.document import config_of, parse_config
from schemas.config.faults import ConfigError
from schemas.config.granularity import Granularity, PerGroupedChannel, PerTensor
from schemas.config.lut import QuantizationSpec
from schemas.config.model import KMeansPalettizerConfig
from schemas.config.module import ModuleKMeansPalettizerConfig, OpKMeansPalettizerConfig
from schemas.config.presets import PRESETS, w4, w6, w8
from schemas.config.spec import PalettizationSpec

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
