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
        KMeansPalettizerConfig,
        ModuleKMeansPalettizerConfig,
        OpKMeansPalettizerConfig,
        PalettizationSpec,
    )

__all__ = [
    "AsyncClient",
    "Client",
    "KMeansPalettizerConfig",
    "ModuleKMeansPalettizerConfig",
    "OpKMeansPalettizerConfig",
    "PaletteSettings",
    "PalettizationSpec",
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
        "KMeansPalettizerConfig",
        "ModuleKMeansPalettizerConfig",
        "OpKMeansPalettizerConfig",
        "PalettizationSpec",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'palettery' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
