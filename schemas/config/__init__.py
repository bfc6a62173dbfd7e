"""The palettization language: coreai-opt's config hierarchy as closed models."""

from palettery.schemas.config.document import config_from_data, parse_config
from palettery.schemas.config.errors import ConfigError
from palettery.schemas.config.granularity import (
    Granularity,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
)
from palettery.schemas.config.lut import (
    QuantizationFormulation,
    QuantizationScheme,
    QuantizationSpec,
)
from palettery.schemas.config.model import KMeansPalettizerConfig
from palettery.schemas.config.module import (
    ModuleKMeansPalettizerConfig,
    OpKMeansPalettizerConfig,
    PATSchedule,
)
from palettery.schemas.config.presets import PRESETS, w4, w6, w8
from palettery.schemas.config.spec import (
    DefaultTrainingSpec,
    PalettizationSpec,
    default_weight_palettization_spec,
)
from palettery.schemas.config.vector_kmeans import VectorKMeansConfig

__all__ = [
    "PRESETS",
    "ConfigError",
    "DefaultTrainingSpec",
    "Granularity",
    "KMeansPalettizerConfig",
    "ModuleKMeansPalettizerConfig",
    "OpKMeansPalettizerConfig",
    "PATSchedule",
    "PalettizationSpec",
    "PerGroupedChannelGranularity",
    "PerTensorGranularity",
    "QuantizationFormulation",
    "QuantizationScheme",
    "QuantizationSpec",
    "VectorKMeansConfig",
    "config_from_data",
    "default_weight_palettization_spec",
    "parse_config",
    "w4",
    "w6",
    "w8",
]
