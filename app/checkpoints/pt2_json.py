"""The JSON documents of a `.pt2` archive: parsed within bounds, read field by field."""

import json
from typing import TypeVar

from palettery.app.checkpoints.json_scan import check_values, shown_value, unique
from palettery.app.errors import InvalidModel
from palettery.app.settings import Limits

EXPORT_AGAIN = "export the model again with torch.export.save"

Kind = TypeVar("Kind", str, int, bool, list[object], dict[str, object])

_WITHOUT_USE = frozenset(("stack_trace", "from_node", "source_fn_stack", "custom", "outputs"))
_WORDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list"}


def parse(data: bytes, what: str, limits: Limits, *, graph: bool = False) -> dict[str, object]:
    """The object that a JSON document holds, no key twice.

    `graph` leaves out, while parsing, what is never read and makes up most of a graph.

    Raises:
        InvalidModel: no sound JSON, or nested too deep.
        TooLarge: very many values.
    """
    try:
        text = data.decode()
        check_values(text, limits, what)
        found = json.loads(
            text, object_pairs_hook=_pruned if graph else unique, parse_constant=_number
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
            f"{what}: {key!r} must be {_WORDS.get(kind, 'an object')}, got "
            f"{shown_value(value)}; {EXPORT_AGAIN}"
        )
    return value


def _number(text: str) -> float:
    """NaN and the infinities, which torch writes into graphs."""
    return float(text)


def _pruned(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object without the fields that nothing reads; empty where it describes a tensor."""
    found = unique(pairs)
    if "sizes" in found and "layout" in found:
        return {}
    if not _WITHOUT_USE.isdisjoint(found):
        return {key: value for key, value in found.items() if key not in _WITHOUT_USE}
    return found
