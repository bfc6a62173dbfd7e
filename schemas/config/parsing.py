"""Parsing of JSON and YAML documents into plain data, within limits."""

import json
from collections.abc import Iterable

import yaml

from palettery.schemas.config.errors import ConfigError, config_error, short_repr
from palettery.schemas.config.limits import MAX_CONFIG_BYTES, MAX_DEPTH, MAX_TEXT_LENGTH, MAX_VALUES
from palettery.schemas.config.yaml import load_yaml


def load_text(text: str | bytes) -> dict[object, object]:
    """Return the mapping in a JSON or YAML document.

    Raises:
        ConfigError: the document is not a mapping, or exceeds a limit.
    """
    return _check_mapping(_parse(decode(text)))


def load_json(text: str | bytes) -> dict[object, object]:
    """Return the mapping in a JSON document; YAML is not accepted.

    Raises:
        ConfigError: the document is not a mapping, or exceeds a limit.
    """
    try:
        return _check_mapping(_parse_json(decode(text)))
    except json.JSONDecodeError as error:
        raise config_error(f"the document is not valid JSON: {error}") from error


def _check_mapping(data: object) -> dict[object, object]:
    if not isinstance(data, dict):
        got = "nothing" if data is None else short_repr(data)
        raise config_error(
            f"the document must be a mapping, such as `global_config: ...`; got {got}"
        )
    _check_sizes(data)
    return data


def decode(text: str | bytes) -> str:
    """Return a document as text.

    Raises:
        ConfigError: the document is too long, or not UTF-8.
    """
    try:
        raw = text if isinstance(text, bytes) else text.encode()
        if len(raw) > MAX_CONFIG_BYTES:
            raise config_error(
                f"the document has {len(raw):,} bytes; {MAX_CONFIG_BYTES:,} are allowed"
            )
        return raw.decode("utf-8-sig")
    except UnicodeError as error:
        raise config_error(f"the document is not UTF-8 text: {error}") from error


def _parse(text: str) -> object:
    """Parse as JSON first, which is faster and stricter than YAML."""
    try:
        return _parse_json(text)
    except json.JSONDecodeError as error:
        return _parse_yaml(text, error)


def _parse_json(text: str) -> object:
    """Parse JSON; raise JSONDecodeError if it is invalid, ConfigError if it exceeds a limit."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError as error:
        raise config_error(f"the document is nested deeper than {MAX_DEPTH} levels") from error
    except (ConfigError, json.JSONDecodeError):
        raise
    except ValueError as error:
        raise config_error("a number in the document has too many digits") from error


def _parse_yaml(text: str, json_error: json.JSONDecodeError) -> object:
    try:
        return load_yaml(text)
    except ConfigError as error:
        if text.lstrip().startswith("{") and isinstance(error.__cause__, yaml.YAMLError):
            raise config_error(f"the document is neither JSON ({json_error}) nor YAML") from error
        raise


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping: dict[str, object] = {}
    for key, value in pairs:
        if key in mapping:
            raise config_error(f"the key {short_repr(key)} occurs twice in one mapping")
        mapping[key] = value
    return mapping


def _check_sizes(data: object) -> None:
    nested, values = [data], 1
    for _ in range(MAX_DEPTH):
        children = [value for parent in nested for value in _children(parent)]
        values += len(children)
        if values > MAX_VALUES:
            raise config_error(f"the document has over {MAX_VALUES:,} values")
        for value in children:
            if isinstance(value, str):
                _check_text(value)
        nested = [value for value in children if isinstance(value, dict | list)]
    if nested:
        raise config_error(f"the document is nested deeper than {MAX_DEPTH} levels")


def _children(value: object) -> Iterable[object]:
    """Return the keys and values of a mapping, or the items of a list."""
    if isinstance(value, dict):
        return (*value, *value.values())
    return value if isinstance(value, list) else ()


def _check_text(value: str) -> None:
    if len(value) > MAX_TEXT_LENGTH:
        raise config_error(
            f"{short_repr(value)} has {len(value):,} characters; {MAX_TEXT_LENGTH:,} are allowed"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise config_error(f"{short_repr(value)} contains a lone surrogate") from error
