"""The type of a config class's `presets`."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

Config = TypeVar("Config")


class Presets(NamedTuple, Generic[Config]):
    """Preset functions of a config class."""

    w4: Callable[..., Config]
    w6: Callable[..., Config]
    w8: Callable[[], Config]


class ModelPresets(NamedTuple, Generic[Config]):
    """Preset functions of the class of whole configs."""

    w4: Callable[..., Config]
    w6: Callable[..., Config]
    w8: Callable[[], Config]
    small: Callable[[], Config]
