"""The JSON documents of a `.pt2` archive: parsed within bounds, read field by field."""

import json
from typing import TypeVar

from app.checkpoints.json_scan import shown
from app.errors import InvalidModel, TooLarge

VALUES = 2_000_000
"""Most values of one document, which bounds the memory that parsing takes."""
EXPORT_AGAIN = "export the model again with torch.export.save"

Kind = TypeVar("Kind", str, int, bool, list[object], dict[str, object])

_WITHOUT_USE = frozenset(("stack_trace", "from_node", "source_fn_stack", "custom", "outputs"))
_WORDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list"}


def parse(data: bytes, what: str, *, graph: bool = False) -> dict[str, object]:
    """The object that a JSON document holds, no key twice.

    `graph` leaves out, while parsing, what is never read and makes up most of a graph.

    Raises:
        InvalidModel: no sound JSON, or nested too deep.
        TooLarge: over `VALUES` values.
    """
    count = sum(map(data.count, (b"[", b"{", b",")))
    if count > VALUES:
        raise TooLarge(f"{what} holds up to {count:,} JSON values; {VALUES:,} are allowed")
    try:
        found = json.loads(
            data.decode(), object_pairs_hook=_pruned if graph else _unique, parse_constant=_number
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
            f"{shown(repr(value)[:100])}; {EXPORT_AGAIN}"
        )
    return value


def _number(text: str) -> float:
    """NaN and the infinities, which torch writes into graphs."""
    return float(text)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} occurs twice in one object")
    return found


def _pruned(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object without the fields that nothing reads; empty where it describes a tensor."""
    found = _unique(pairs)
    if "sizes" in found and "layout" in found:
        return {}
    if not _WITHOUT_USE.isdisjoint(found):
        return {key: value for key, value in found.items() if key not in _WITHOUT_USE}
    return found
