"""Preset configs: those of coreai-opt, with their names, and `small`."""

from collections.abc import Callable, Mapping
from typing import Literal

from palettery.schemas.config.granularity import (
    Granularity,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
)
from palettery.schemas.config.model import KMeansPalettizerConfig
from palettery.schemas.config.module import WEIGHTS, ModuleKMeansPalettizerConfig
from palettery.schemas.config.preset_types import ModelPresets, Presets
from palettery.schemas.config.spec import PalettizationSpec

Axis = Literal[0, 1]
EMBEDDING = "torch.nn.modules.sparse.Embedding"


def w4(axis: Axis = 0, group_size: int = 16) -> KMeansPalettizerConfig:
    """Return a config with 4 bits and one palette per `group_size` channels."""
    return KMeansPalettizerConfig(global_config=module_w4(axis, group_size))


def w6(axis: Axis = 0, group_size: int = 16) -> KMeansPalettizerConfig:
    """Return a config with 6 bits and one palette per `group_size` channels."""
    return KMeansPalettizerConfig(global_config=module_w6(axis, group_size))


def w8() -> KMeansPalettizerConfig:
    """Return a config with 8 bits and one palette per tensor."""
    return KMeansPalettizerConfig(global_config=module_w8())


def small() -> KMeansPalettizerConfig:
    """Return `w4` with 4 bits for Embeddings, too, which coreai-opt's presets do not palettize.

    Embeddings get one palette per tensor, which fits vocabularies of any size.
    """
    embeddings = ModuleKMeansPalettizerConfig(
        op_state_spec=None, module_state_spec={"weight": PalettizationSpec(n_bits=4)}
    )
    return w4().set_module_type(EMBEDDING, embeddings)


def module_w4(axis: Axis = 0, group_size: int = 16) -> ModuleKMeansPalettizerConfig:
    """Return the module config of `w4`."""
    return _module(4, PerGroupedChannelGranularity(group_size=group_size, axis=axis))


def module_w6(axis: Axis = 0, group_size: int = 16) -> ModuleKMeansPalettizerConfig:
    """Return the module config of `w6`."""
    return _module(6, PerGroupedChannelGranularity(group_size=group_size, axis=axis))


def module_w8() -> ModuleKMeansPalettizerConfig:
    """Return the module config of `w8`."""
    return _module(8, PerTensorGranularity())


def _module(n_bits: Literal[4, 6, 8], granularity: Granularity) -> ModuleKMeansPalettizerConfig:
    spec = PalettizationSpec(n_bits=n_bits, granularity=granularity)
    return ModuleKMeansPalettizerConfig(op_state_spec=dict.fromkeys(WEIGHTS, spec))


PRESETS: Mapping[str, Callable[[], KMeansPalettizerConfig]] = {
    "w4": w4,
    "w6": w6,
    "w8": w8,
    "small": small,
}
"""Presets by the names that requests can use."""

KMeansPalettizerConfig.presets = ModelPresets(w4, w6, w8, small)
ModuleKMeansPalettizerConfig.presets = Presets(module_w4, module_w6, module_w8)
