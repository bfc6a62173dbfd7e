"""JSON or YAML text as plain data, within limits."""

import json
from collections.abc import Iterable

import yaml

from palettery.schemas.config.faults import ConfigError, fault, shown
from palettery.schemas.config.limits import CONFIG_BYTES, LEVELS, TEXT_LENGTH, VALUES
from palettery.schemas.config.yaml import load_yaml


def load_text(text: str | bytes) -> dict[object, object]:
    """The mapping that a JSON or YAML document holds.

    Raises:
        ConfigError: it holds something else, or it is beyond a limit.
    """
    return _checked(_loaded(decoded(text)))


def load_json(text: str | bytes) -> dict[object, object]:
    """The mapping that a JSON document holds; YAML is none.

    Raises:
        ConfigError: it holds something else, or it is beyond a limit.
    """
    try:
        return _checked(_loaded_json(decoded(text)))
    except json.JSONDecodeError as error:
        raise fault(f"the document is not valid JSON: {error}") from error


def _checked(data: object) -> dict[object, object]:
    if not isinstance(data, dict):
        got = "nothing" if data is None else shown(data)
        raise fault(f"the document must be a mapping, such as `global_config: ...`; got {got}")
    _check_sizes(data)
    return data


def decoded(text: str | bytes) -> str:
    """A document as text.

    Raises:
        ConfigError: it is too long, or not UTF-8.
    """
    try:
        raw = text if isinstance(text, bytes) else text.encode()
        if len(raw) > CONFIG_BYTES:
            raise fault(f"the document has {len(raw):,} bytes; {CONFIG_BYTES:,} are allowed")
        return raw.decode("utf-8-sig")
    except UnicodeError as error:
        raise fault(f"the document is not UTF-8 text: {error}") from error


def _loaded(text: str) -> object:
    """JSON is tried first: nearly all of it is YAML too, and it is quicker and stricter."""
    try:
        return _loaded_json(text)
    except json.JSONDecodeError as error:
        return _loaded_yaml(text, error)


def _loaded_json(text: str) -> object:
    """Raises: JSONDecodeError when it is no JSON, ConfigError when it is beyond a limit."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise fault(f"the document is nested deeper than {LEVELS} levels") from error
    except (ConfigError, json.JSONDecodeError):
        raise
    except ValueError as error:
        raise fault("a number in the document has too many digits") from error


def _loaded_yaml(text: str, json_error: json.JSONDecodeError) -> object:
    try:
        return load_yaml(text)
    except ConfigError as error:
        if text.lstrip().startswith("{") and isinstance(error.__cause__, yaml.YAMLError):
            raise fault(f"the document is neither JSON ({json_error}) nor YAML") from error
        raise


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise fault(f"the key {shown(key)} stands twice in one mapping")
        found[key] = value
    return found


def _check_sizes(data: object) -> None:
    nested, values = [data], 1
    for _ in range(LEVELS):
        inner = [value for outer in nested for value in _inside(outer)]
        values += len(inner)
        if values > VALUES:
            raise fault(f"the document has over {VALUES:,} values")
        for value in inner:
            if isinstance(value, str):
                _check_text(value)
        nested = [value for value in inner if isinstance(value, dict | list)]
    if nested:
        raise fault(f"the document is nested deeper than {LEVELS} levels")


def _inside(value: object) -> Iterable[object]:
    """What a mapping or list holds, keys among it."""
    if isinstance(value, dict):
        return (*value, *value.values())
    return value if isinstance(value, list) else ()


def _check_text(value: str) -> None:
    if len(value) > TEXT_LENGTH:
        raise fault(f"{shown(value)} has {len(value):,} characters; {TEXT_LENGTH:,} are allowed")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise fault(f"{shown(value)} holds half a character: a lone surrogate") from error
