"""Bounded parsing of the JSON documents of a `.pt2` archive, and access to their fields."""

import json
from typing import TypeVar

from palettery.app.checkpoints.json_scanner import check_value_count, unique_keys
from palettery.app.checkpoints.quoting import quote_json
from palettery.app.errors import InvalidModel
from palettery.app.settings import Limits

EXPORT_AGAIN = "export the model again with torch.export.save"

Kind = TypeVar("Kind", str, int, bool, list[object], dict[str, object])

_UNUSED_FIELDS = frozenset(("stack_trace", "from_node", "source_fn_stack", "custom", "outputs"))
_TYPE_NAMES = {str: "a string", int: "a whole number", bool: "true or false", list: "a list"}


def parse(data: bytes, what: str, limits: Limits, *, graph: bool = False) -> dict[str, object]:
    """Return the object of a JSON document, whose keys must be unique.

    `graph` drops unused fields during parsing; they are most of a graph.

    Raises:
        InvalidModel: invalid JSON, or nested too deep.
        TooLarge: too many values.
    """
    try:
        text = data.decode()
        check_value_count(text, limits, what)
        document = json.loads(
            text,
            object_pairs_hook=_drop_unused_fields if graph else unique_keys,
            parse_constant=_parse_constant,
        )
    except RecursionError as error:
        raise InvalidModel(f"{what} is nested too deep; {EXPORT_AGAIN}") from error
    except ValueError as error:
        raise InvalidModel(f"{what} is not valid JSON ({error}); {EXPORT_AGAIN}") from error
    if not isinstance(document, dict):
        raise InvalidModel(f"{what} must be a JSON object; {EXPORT_AGAIN}")
    return document


def field(parent: object, key: str, kind: type[Kind], what: str) -> Kind:
    """Return a field of an object, of exactly this type.

    Raises:
        InvalidModel: not an object, no such field, or one of another type.
    """
    value = parent.get(key) if isinstance(parent, dict) else None
    if type(value) is not kind:
        raise InvalidModel(
            f"{what}: {key!r} must be {_TYPE_NAMES.get(kind, 'an object')}, got "
            f"{quote_json(value)}; {EXPORT_AGAIN}"
        )
    return value


def _parse_constant(text: str) -> float:
    """Parse NaN and the infinities, which torch writes into graphs."""
    return float(text)


def _drop_unused_fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object without unused fields; one that describes a tensor becomes empty."""
    fields = unique_keys(pairs)
    if "sizes" in fields and "layout" in fields:
        return {}
    if not _UNUSED_FIELDS.isdisjoint(fields):
        return {key: value for key, value in fields.items() if key not in _UNUSED_FIELDS}
    return fields
