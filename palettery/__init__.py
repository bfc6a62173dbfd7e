"""Palettize neural-network weights, locally or on a server, and load the results.

Names are imported when first used: `Client` needs neither torch nor the server's code.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from palettery.app.artifacts.pytorch import load, load_into
    from palettery.app.client import AsyncClient, Client
    from palettery.kernels import PaletteSettings, palettize, reconstruct
    from palettery.schemas.config import (
        DefaultTrainingSpec,
        KMeansPalettizerConfig,
        ModuleKMeansPalettizerConfig,
        OpKMeansPalettizerConfig,
        PalettizationSpec,
        PATSchedule,
        PerGroupedChannelGranularity,
        PerTensorGranularity,
        QuantizationFormulation,
        QuantizationScheme,
        QuantizationSpec,
        VectorKMeansConfig,
        default_weight_palettization_spec,
    )

__all__ = [
    "AsyncClient",
    "Client",
    "DefaultTrainingSpec",
    "KMeansPalettizerConfig",
    "ModuleKMeansPalettizerConfig",
    "OpKMeansPalettizerConfig",
    "PATSchedule",
    "PaletteSettings",
    "PalettizationSpec",
    "PerGroupedChannelGranularity",
    "PerTensorGranularity",
    "QuantizationFormulation",
    "QuantizationScheme",
    "QuantizationSpec",
    "VectorKMeansConfig",
    "default_weight_palettization_spec",
    "load",
    "load_into",
    "palettize",
    "reconstruct",
]

_MODULES = {
    "palettery.app.artifacts.pytorch": ("load", "load_into"),
    "palettery.app.client": ("AsyncClient", "Client"),
    "palettery.kernels": ("PaletteSettings", "palettize", "reconstruct"),
    "palettery.schemas.config": (
        "DefaultTrainingSpec",
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
        "default_weight_palettization_spec",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_ABSENT = {
    "KMeansPalettizer": "no live model is changed here: send its weights with palettery.Client, or "
    "run `palettery compress`, then palettery.load the result",
    "ExportBackend": "exports are options of a job, such as `exports=['coreai']`",
    "PalettizationGranularity": "a granularity is a PerTensorGranularity or a "
    "PerGroupedChannelGranularity, and there are no others to register",
    "TrainingStrategy": "nothing is trained here",
    "TrainingStrategySpec": "nothing is trained here; there is only DefaultTrainingSpec",
    "Quantizer": "weights are palettized only",
    "QuantizerConfig": "weights are palettized only",
    "ModuleQuantizerConfig": "weights are palettized only",
    "MagnitudePruner": "nothing is pruned here; weights that are sparse already stay so with a "
    "sparsity_detection_threshold",
    "MagnitudePrunerConfig": "nothing is pruned here",
}
"""Names of coreai-opt that mean nothing here -> the reason, and what to use instead."""


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it.

    Raises:
        ImportError: a name of coreai-opt that means nothing here; `from palettery import name`
            would replace the message of an AttributeError.
    """
    if name in _ABSENT:
        raise ImportError(f"palettery has no {name}: {_ABSENT[name]}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'palettery' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
