"""Errors of config documents, as readable messages with JSON pointers."""

import difflib
import reprlib
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from palettery.schemas.config.limits import MAX_ERRORS
from palettery.schemas.problem import InvalidField

Step = int | str

KEY = "[key]"
"""Pydantic's step to the key of an entry, where all other steps lead to values."""

_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
    "too_long": ("a list of", "max_length"),
}
_EXPECTED = {
    "bool": "true or false",
    "dict": "a mapping",
    "finite": "a finite number",
    "float": "a number",
    "int": "a whole number",
    "model": "a mapping",
    "none": "null",
    "string": "text",
    "tuple": "a list",
}
"""First word of pydantic's error type -> what a value must be."""


class ConfigError(ValueError):
    """A document that is not a valid config; `errors` has one entry for each error."""

    def __init__(self, *errors: InvalidField) -> None:
        super().__init__("; ".join(f"{error.pointer or '/'}: {error.detail}" for error in errors))
        self.errors = errors


def config_error(detail: str, *steps: Step) -> ConfigError:
    """Return the exception for a document with one error, at a path in it."""
    return ConfigError(InvalidField(pointer=pointer(*steps), detail=detail))


def describe_errors(
    error: ValidationError, model: type[BaseModel], *prefix: Step
) -> tuple[InvalidField, ...]:
    """Return a message for each error of a pydantic validation, with pointers below `prefix`."""
    errors = error.errors(include_url=False)
    fields = [_describe_error(details, model, prefix) for details in errors[:MAX_ERRORS]]
    if len(errors) > MAX_ERRORS:
        fields.append(
            InvalidField(pointer="", detail=f"and {len(errors) - MAX_ERRORS:,} more errors")
        )
    return tuple(fields)


def unknown_key(key: object, known: Sequence[str]) -> str:
    """Return the message for an unknown key, with the closest known one."""
    near = difflib.get_close_matches(str(key)[:100], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(known)}"
    return f"unknown key {short_repr(key)}; {hint}"


def pointer(*steps: Step) -> str:
    """Return the JSON pointer (RFC 6901) of a path."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def short_repr(value: object) -> str:
    """Return a short representation of a value for messages."""
    return _ShortRepr().repr(value)


class _ShortRepr(reprlib.Repr):
    """Short representations; those of long integers too, which Python refuses to convert."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:  # noqa: ARG002 - the base class's signature
        bits = x.bit_length()
        return repr(x) if bits <= 128 else f"an integer of {bits:,} bits"


def _describe_error(
    error: ErrorDetails, model: type[BaseModel], prefix: tuple[Step, ...]
) -> InvalidField:
    place, known = _document_path(model, error)
    return InvalidField(pointer=pointer(*prefix, *place), detail=_error_detail(error, place, known))


def _error_detail(error: ErrorDetails, place: list[Step], known: list[str]) -> str:
    kind, got, context = error["type"], short_repr(error["input"]), error.get("ctx", {})
    field = _field_name(place)
    if kind == "extra_forbidden":
        return unknown_key(place[-1], known)
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return f"{field} is missing"
    if kind == "literal_error":
        allowed = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        return f"{field} must be one of {allowed}; got {got}"
    if kind == "string_pattern_mismatch":
        return f"{field} must match {context['pattern']}; got {got}"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"{field} must be {words} {context[bound]}; got {got}"
    if kind == "invalid_key" or (place and error["loc"][-1] == KEY != place[-1]):
        return f"keys must be text; got {short_repr(place[-1])}, which is text when quoted"
    if kind.startswith("union_tag"):
        return f"{field} must have type per_tensor or per_grouped_channel; got {got}"
    expected = _EXPECTED.get(kind.partition("_")[0])
    return f"{field} must be {expected}; got {got}" if expected else f"{field}: {error['msg']}"


def _field_name(place: list[Step]) -> str:
    """Return the last name of a path, with the index that follows it."""
    if not place:
        return "the config"
    *above, last = place
    return f"{above[-1]}[{last}]" if isinstance(last, int) and above else str(last)


def _document_path(model: type[BaseModel], error: ErrorDetails) -> tuple[list[Step], list[str]]:
    """Return the document path of a pydantic error, and the keys allowed at its last step.

    Pydantic's path has steps that are not in the document: union tags, and `[key]` for keys.
    """
    kinds, place, known, is_entry = [model], list[Step](), list[str](), False
    for step in error["loc"]:
        if is_entry and step == KEY and error["type"] != "extra_forbidden":
            continue
        mapping = next((kind for kind in kinds if get_origin(kind) is dict), None)
        is_entry = mapping is not None
        if mapping:
            kinds = list(_choices(get_args(mapping)[1]))
        elif len(kinds) > 1:
            kinds = [kind for kind in kinds if kind.model_fields["type"].default == step]
            continue
        elif kinds:
            fields = kinds[0].model_fields
            known = list(fields)
            kinds = list(_choices(fields[str(step)].annotation)) if step in fields else []
        place.append(step)
    return place, known


def _choices(annotation: Any) -> Iterator[Any]:
    """Yield the mappings and models in an annotation such as `dict[str, Model] | None`."""
    if get_origin(annotation) is dict or (
        isinstance(annotation, type) and issubclass(annotation, BaseModel)
    ):
        yield annotation
        return
    for inner in get_args(annotation):
        yield from _choices(inner)
