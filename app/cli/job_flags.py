"""Flags of the command line for the options of a job, derived from `JobOptions`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from palettery.app.allocation.target_parsing import parse_target
from palettery.app.cli.options import read_choices
from palettery.app.errors import BadInput
from palettery.schemas.job_options import option_schemas

SHORT_NAMES = {
    "deadline_s": "deadline",
    "webhook_url": "webhook",
    "formats": "export",
    "calibration_id": "calibration",
}
"""Field -> its flag, where the names differ."""


def with_job_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command that takes `options`, a dict, to have one flag for each job option."""
    schemas = option_schemas()

    @wraps(command)
    def run(**arguments: Any) -> None:
        values = {name: arguments.pop(name) for name in schemas}
        options = {
            name: _parsed(name, value, schemas[name])
            for name, value in values.items()
            if value is not None
        }
        _check_inputs(options)
        command(**arguments, options=options)

    parameters = list(inspect.signature(command).parameters.values())
    own = [parameter for parameter in parameters if parameter.name != "options"]
    flags = [_flag(name, schema) for name, schema in schemas.items()]
    run.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*own, *flags)}
    return run


def _flag(name: str, schema: Mapping[str, Any]) -> inspect.Parameter:
    flag = "--" + SHORT_NAMES.get(name, name).replace("_", "-")
    help_, default, limits = schema["description"], None, {}
    kind: Any
    match schema["type"]:
        case "boolean":
            kind, default = bool, schema["default"]
            flag = f"{flag}/--no-{flag[2:]}" if default else flag
        case "integer":
            kind, limits = int, {"min": schema["minimum"], "max": schema["maximum"]}
        case "array":
            kind = list[str]
            help_ += f" One of {', '.join(schema['items']['enum'])}; repeat the flag for more."
        case "object":
            if name == "choices":
                kind, help_ = Path, f"{help_} A file, as JSON or YAML."
            else:
                kind = list[str]
                names = ", ".join(_leaves(schema))
                help_ += f" A value, or NAME=VALUE of {names}; repeat the flag."
        case _:
            # A target given twice is an error, not the last one.
            kind = list[str] if name == "target" else str
    annotation = Annotated[kind | None, typer.Option(flag, help=help_, **limits)]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _parsed(name: str, value: Any, schema: Mapping[str, Any]) -> object:
    """Return what an option means; see `parse_target`, `read_choices` and `_parse_object`."""
    if name == "target":
        return parse_target(value)
    if name == "choices":
        return read_choices(value)
    return _parse_object(name, value, schema) if _is_object(schema) else value


def _check_inputs(options: Mapping[str, Any]) -> None:
    """Check that a target of a quality has inputs to measure it on.

    Raises:
        BadInput: it has none.
    """
    target = options.get("target")
    if target is not None and target.quality is not None and "evaluate" not in options:
        raise BadInput(
            "a target of a quality is measured on inputs: add --evaluate FILE, which "
            "`palettery tokenize` or `palettery images` makes"
        )


def _is_object(schema: Mapping[str, Any]) -> bool:
    return bool(schema["type"] == "object")


def _parse_object(name: str, texts: Sequence[str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an option of several values, from texts such as `cosine=0.98`.

    Texts without a name are the value of the first property that is required; several are a list.

    Raises:
        BadInput: a name is unknown.
    """
    leaves, values = _leaves(schema), dict[str, Any]()
    unnamed = [text for text in texts if "=" not in text]
    if unnamed:
        values[schema["required"][0]] = unnamed if unnamed[1:] else unnamed[0]
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            continue
        if key not in leaves:
            allowed = ", ".join(leaves)
            raise BadInput(f"--{name} {text}: there is no {key!r}; name one of {allowed}")
        *parents, last = leaves[key]
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = _number(value)
    return values


def _leaves(schema: Mapping[str, Any], *above: str) -> dict[str, tuple[str, ...]]:
    """Return the names of an object's values, with the path to each."""
    leaves: dict[str, tuple[str, ...]] = {}
    for name, each in schema["properties"].items():
        inner = _leaves(each, *above, name) if "properties" in each else {name: (*above, name)}
        leaves |= inner
    return leaves


def _number(text: str) -> str | int | float:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
