"""The JSON documents of a `.pt2` archive: parsed within bounds, read field by field."""

import json
from typing import TypeVar

from palettery.app.checkpoints.json_scanner import check_value_count, quote_json, unique_keys
from palettery.app.errors import InvalidModel
from palettery.app.settings import Limits

EXPORT_AGAIN = "export the model again with torch.export.save"

Kind = TypeVar("Kind", str, int, bool, list[object], dict[str, object])

_UNUSED_FIELDS = frozenset(("stack_trace", "from_node", "source_fn_stack", "custom", "outputs"))
_TYPE_NAMES = {str: "a text", int: "a whole number", bool: "true or false", list: "a list"}


def parse(data: bytes, what: str, limits: Limits, *, graph: bool = False) -> dict[str, object]:
    """The object that a JSON document holds, no key twice.

    `graph` leaves out, while parsing, what is never read and makes up most of a graph.

    Raises:
        InvalidModel: no sound JSON, or nested too deep.
        TooLarge: very many values.
    """
    try:
        text = data.decode()
        check_value_count(text, limits, what)
        found = json.loads(
            text,
            object_pairs_hook=_drop_unused_fields if graph else unique_keys,
            parse_constant=_number,
        )
    except RecursionError as error:
        raise InvalidModel(f"{what} is nested too deep; {EXPORT_AGAIN}") from error
    except ValueError as error:
        raise InvalidModel(f"{what} is not sound JSON ({error}); {EXPORT_AGAIN}") from error
    if not isinstance(found, dict):
        raise InvalidModel(f"{what} must hold a JSON object, and does not; {EXPORT_AGAIN}")
    return found


def field(said: object, key: str, kind: type[Kind], what: str) -> Kind:
    """One field of an object, of exactly this kind.

    Raises:
        InvalidModel: no object, no such field, or one of another kind.
    """
    value = said.get(key) if isinstance(said, dict) else None
    if type(value) is not kind:
        raise InvalidModel(
            f"{what}: {key!r} must be {_TYPE_NAMES.get(kind, 'an object')}, got "
            f"{quote_json(value)}; {EXPORT_AGAIN}"
        )
    return value


def _number(text: str) -> float:
    """NaN and the infinities, which torch writes into graphs."""
    return float(text)


def _drop_unused_fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object without the fields that nothing reads; empty where it describes a tensor."""
    found = unique_keys(pairs)
    if "sizes" in found and "layout" in found:
        return {}
    if not _UNUSED_FIELDS.isdisjoint(found):
        return {key: value for key, value in found.items() if key not in _UNUSED_FIELDS}
    return found
