"""Config documents: JSON or YAML, with or without the top-level key of a file."""

import difflib

from pydantic import ValidationError

from palettery.schemas.config.errors import ConfigError, describe_errors, pointer, unknown_key
from palettery.schemas.config.line_numbers import with_line_numbers
from palettery.schemas.config.model import ANCHORS_KEY, CONFIG_KEY, KMeansPalettizerConfig
from palettery.schemas.config.parsing import load_text
from palettery.schemas.problem import InvalidField

FILE_KEYS = (CONFIG_KEY, ANCHORS_KEY)


def parse_config(text: str | bytes) -> KMeansPalettizerConfig:
    """Return the config in a JSON or YAML document.

    Raises:
        ConfigError: the document has errors; they have line numbers.
    """
    try:
        return config_of(load_text(text))
    except ConfigError as error:
        raise with_line_numbers(error, text) from error


def config_of(data: object, *prefix: str) -> KMeansPalettizerConfig:
    """Return the config in the data of a document; pointers of errors begin with `prefix`.

    A file has it under `kmeans_palettization_config`, optionally next to `palettization_spec`; a
    bare document is the config itself.

    Raises:
        ConfigError: the document has errors.
    """
    if not isinstance(data, dict) or not _is_file_form(data):
        return _validate(data, *prefix)
    unknown_keys = tuple(
        InvalidField(pointer=pointer(*prefix, str(key)), detail=unknown_key(key, FILE_KEYS))
        for key in data
        if key not in FILE_KEYS
    )
    if CONFIG_KEY in data:
        return _validate(data[CONFIG_KEY], *prefix, CONFIG_KEY, unknown_keys=unknown_keys)
    missing = InvalidField(pointer=pointer(*prefix), detail=f"{CONFIG_KEY} is missing")
    raise ConfigError(*(unknown_keys or (missing,)))


def _is_file_form(data: dict[object, object]) -> bool:
    """Return whether a document is in file form, possibly with a misspelt key."""
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
        faults = describe_errors(error, KMeansPalettizerConfig, *prefix)
        raise ConfigError(*unknown_keys, *faults) from error
    if unknown_keys:
        raise ConfigError(*unknown_keys)
    return config
