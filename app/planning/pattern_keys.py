"""Validation of all patterns of a config."""

from collections.abc import Iterator

from palettery.app.errors import InvalidConfig
from palettery.app.planning.paths import json_pointer
from palettery.app.planning.patterns import Patterns
from palettery.schemas.config import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
from palettery.schemas.config.limits import MAX_ERRORS
from palettery.schemas.problem import InvalidField


def check_patterns(config: KMeansPalettizerConfig, patterns: Patterns) -> None:
    """Compile every pattern before anything is matched, so that bad ones are always reported.

    Raises:
        InvalidConfig: lists the patterns that are not regular expressions, up to `MAX_ERRORS`.
    """
    errors: list[InvalidField] = []
    for pattern, location in _patterns(config):
        try:
            patterns.check(pattern, location)
        except InvalidConfig as error:
            errors.extend(error.errors)
        if len(errors) == MAX_ERRORS:
            break
    if errors:
        raise InvalidConfig.of(errors)


def _module_configs(
    config: KMeansPalettizerConfig,
) -> Iterator[tuple[tuple[str, ...], ModuleKMeansPalettizerConfig | None]]:
    """Yield every module config, with its path."""
    yield ("global_config",), config.global_config
    for key, module_config in config.module_type_configs.items():
        yield ("module_type_configs", key), module_config
    for key, module_config in config.module_name_configs.items():
        yield ("module_name_configs", key), module_config


def _patterns(config: KMeansPalettizerConfig) -> Iterator[tuple[str, str]]:
    for pattern in config.module_name_configs:
        yield pattern, json_pointer("module_name_configs", pattern)
    for path, module_config in _module_configs(config):
        for pattern in module_config.op_name_config if module_config else ():
            yield pattern, json_pointer(*path, "op_name_config", pattern)
