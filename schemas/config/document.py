"""A config document: JSON or YAML, in the form of a file or bare."""

import difflib

from pydantic import ValidationError

from palettery.schemas.config.faults import ConfigError, explained, pointer, unknown_key
from palettery.schemas.config.lines import with_lines
from palettery.schemas.config.model import ANCHORS_KEY, CONFIG_KEY, KMeansPalettizerConfig
from palettery.schemas.config.text import load_text
from palettery.schemas.problem import InvalidField

FILE_KEYS = (CONFIG_KEY, ANCHORS_KEY)


def parse_config(text: str | bytes) -> KMeansPalettizerConfig:
    """The config in a JSON or YAML document.

    Raises:
        ConfigError: with every fault of the document, and the lines where they stand.
    """
    try:
        return config_of(load_text(text))
    except ConfigError as error:
        raise with_lines(error, text) from error


def config_of(data: object, *prefix: str) -> KMeansPalettizerConfig:
    """The config that a document holds, which itself lay below `prefix`.

    A file holds it under `kmeans_palettization_config`, maybe beside `palettization_spec`; a bare
    document is the config itself.

    Raises:
        ConfigError: with every fault of the document.
    """
    if not isinstance(data, dict) or not _is_file_form(data):
        return _validated(data, *prefix)
    strays = tuple(
        InvalidField(pointer=pointer(*prefix, str(key)), detail=unknown_key(key, FILE_KEYS))
        for key in data
        if key not in FILE_KEYS
    )
    if CONFIG_KEY in data:
        return _validated(data[CONFIG_KEY], *prefix, CONFIG_KEY, strays=strays)
    missing = InvalidField(pointer=pointer(*prefix), detail=f"{CONFIG_KEY} is missing")
    raise ConfigError(*(strays or (missing,)))


def _is_file_form(data: dict[object, object]) -> bool:
    """Whether a document is in file form, maybe with its key misspelt."""
    if any(key in data for key in FILE_KEYS):
        return True
    names = [str(key)[:100] for key in data]
    is_bare = any(name in KMeansPalettizerConfig.model_fields for name in names)
    return not is_bare and bool(difflib.get_close_matches(CONFIG_KEY, names, cutoff=0.8))


def _validated(
    data: object, *prefix: str, strays: tuple[InvalidField, ...] = ()
) -> KMeansPalettizerConfig:
    try:
        config = KMeansPalettizerConfig.model_validate(data)
    except ValidationError as error:
        faults = explained(error, KMeansPalettizerConfig, *prefix)
        raise ConfigError(*strays, *faults) from error
    if strays:
        raise ConfigError(*strays)
    return config
