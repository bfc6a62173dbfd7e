"""Config documents: JSON or YAML, with or without the top-level key of a file."""

import difflib

from pydantic import ValidationError

from palettery.schemas.config.errors import (
    ConfigError,
    config_error,
    describe_errors,
    pointer,
    unknown_key_message,
)
from palettery.schemas.config.line_numbers import with_line_numbers
from palettery.schemas.config.model import ANCHORS_KEY, CONFIG_KEY, KMeansPalettizerConfig
from palettery.schemas.config.other_methods import other_method_key, other_method_message
from palettery.schemas.config.parsing import load_text
from palettery.schemas.problem import InvalidField

FILE_KEYS = (CONFIG_KEY, ANCHORS_KEY)


def parse_config(text: str | bytes) -> KMeansPalettizerConfig:
    """Return the config in a JSON or YAML document.

    Raises:
        ConfigError: the document has errors; they have line numbers.
    """
    try:
        return config_from_data(load_text(text))
    except ConfigError as error:
        raise with_line_numbers(error, text) from error


def config_from_data(data: object, *prefix: str) -> KMeansPalettizerConfig:
    """Return the config in the data of a document; error pointers begin with `prefix`.

    The config is either the whole document, or the value of its key `kmeans_palettization_config`,
    next to which only `palettization_spec` is allowed.

    Raises:
        ConfigError: the document has errors.
    """
    if isinstance(data, dict) and (other_key := other_method_key(data)) is not None:
        raise config_error(other_method_message(other_key), *prefix, other_key)
    if not isinstance(data, dict) or not _has_file_key(data):
        return _validate(data, *prefix)
    unknown_keys = tuple(
        InvalidField(pointer=pointer(*prefix, str(key)), detail=unknown_key_message(key, FILE_KEYS))
        for key in data
        if key not in FILE_KEYS
    )
    if CONFIG_KEY in data:
        return _validate(data[CONFIG_KEY], *prefix, CONFIG_KEY, unknown_keys=unknown_keys)
    missing = InvalidField(pointer=pointer(*prefix), detail=f"{CONFIG_KEY} is missing")
    raise ConfigError(*(unknown_keys or (missing,)))


def _has_file_key(data: dict[object, object]) -> bool:
    """Return whether a document has the top-level key of a file, possibly misspelt."""
    if any(key in data for key in FILE_KEYS):
        return True
    names = [str(key)[:100] for key in data]
    is_bare = any(name in KMeansPalettizerConfig.model_fields for name in names)
    return not is_bare and bool(difflib.get_close_matches(CONFIG_KEY, names, cutoff=0.8))


def _validate(
    data: object, *prefix: str, unknown_keys: tuple[InvalidField, ...] = ()
) -> KMeansPalettizerConfig:
    try:
        config = KMeansPalettizerConfig.model_validate(data)
    except ValidationError as error:
        errors = describe_errors(error, KMeansPalettizerConfig, *prefix)
        raise ConfigError(*unknown_keys, *errors) from error
    if unknown_keys:
        raise ConfigError(*unknown_keys)
    return config
