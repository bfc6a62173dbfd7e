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
"""Key of a mapping or index of a list, in the path of a value."""

KEY_STEP = "[key]"
"""Step that pydantic puts into an error's path if a key, and not its value, is invalid."""

_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
    "too_long": ("a list of", "max_length"),
}
"""Pydantic's error type -> the relation in words, and the bound's key in the error's context."""
_EXPECTED_VALUES = {
    "bool": "true or false",
    "dict": "a mapping",
    "finite": "a finite number",
    "float": "a number",
    "int": "a whole number",
    "is": "a list",
    "model": "a mapping",
    "none": "null",
    "sequence": "a list",
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


def unknown_key_message(key: object, allowed_keys: Sequence[str]) -> str:
    """Return the message for an unknown key, with the closest known one."""
    matches = difflib.get_close_matches(str(key)[:100], allowed_keys, n=1, cutoff=0.5)
    hint = f"did you mean {matches[0]!r}?" if matches else f"allowed are {', '.join(allowed_keys)}"
    return f"unknown key {short_repr(key)}; {hint}"


def pointer(*steps: Step) -> str:
    """Return the JSON pointer (RFC 6901) of a path."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def short_repr(value: object) -> str:
    """Return a short representation of a value for messages."""
    return _ShortRepr().repr(value)


class _ShortRepr(reprlib.Repr):
    """Short representations, also of integers with more digits than Python converts to text."""

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
    path, allowed_keys = _document_path(model, error)
    return InvalidField(
        pointer=pointer(*prefix, *path), detail=_error_detail(error, path, allowed_keys)
    )


def _error_detail(error: ErrorDetails, path: list[Step], allowed_keys: list[str]) -> str:
    error_type, got, context = error["type"], short_repr(error["input"]), error.get("ctx", {})
    field = _field_name(path)
    if error_type == "extra_forbidden":
        return unknown_key_message(path[-1], allowed_keys)
    if error_type == "value_error":
        return str(context["error"])
    if error_type == "missing":
        return f"{field} is missing"
    if error_type == "literal_error":
        allowed = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        return f"{field} must be one of {allowed}; got {got}"
    if error_type == "string_pattern_mismatch":
        return f"{field} must match {context['pattern']}; got {got}"
    if error_type in _BOUNDS:
        words, bound = _BOUNDS[error_type]
        return f"{field} must be {words} {context[bound]}; got {got}"
    if error_type == "invalid_key" or (path and error["loc"][-1] == KEY_STEP != path[-1]):
        return f"keys must be text; got {short_repr(path[-1])}, which is text when quoted"
    if error_type.startswith("union_tag"):
        return f"{field} must have type per_tensor or per_grouped_channel; got {got}"
    expected = _EXPECTED_VALUES.get(error_type.partition("_")[0])
    return f"{field} must be {expected}; got {got}" if expected else f"{field}: {error['msg']}"


def _field_name(path: list[Step]) -> str:
    """Return the last key of a path, with the list index that follows it, if any."""
    if not path:
        return "the config"
    *above, last = path
    return f"{above[-1]}[{last}]" if isinstance(last, int) and above else str(last)


def _document_path(model: type[BaseModel], error: ErrorDetails) -> tuple[list[Step], list[str]]:
    """Return the document path of a pydantic error, and the keys allowed at its end.

    Pydantic's path has steps that are not in the document: union tags, and `[key]` for keys.
    """
    types, path, allowed_keys, is_mapping_entry = [model], list[Step](), list[str](), False
    for step in error["loc"]:
        if is_mapping_entry and step == KEY_STEP and error["type"] != "extra_forbidden":
            continue
        mapping = next((candidate for candidate in types if get_origin(candidate) is dict), None)
        is_mapping_entry = mapping is not None
        if mapping:
            types = list(_nested_types(get_args(mapping)[1]))
        elif len(types) > 1:
            types = [
                candidate for candidate in types if candidate.model_fields["type"].default == step
            ]
            continue
        elif types:
            fields = types[0].model_fields
            allowed_keys = list(fields)
            types = list(_nested_types(fields[str(step)].annotation)) if step in fields else []
        path.append(step)
    return path, allowed_keys


def _nested_types(annotation: Any) -> Iterator[Any]:
    """Yield the mappings and models in an annotation such as `dict[str, Model] | None`."""
    if get_origin(annotation) is dict or (
        isinstance(annotation, type) and issubclass(annotation, BaseModel)
    ):
        yield annotation
        return
    for inner in get_args(annotation):
        yield from _nested_types(inner)
