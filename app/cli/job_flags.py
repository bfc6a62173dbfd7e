"""Flags of the command line for the options of a job, derived from `JobOptions`."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any

import typer

from palettery.schemas.job_options import option_schemas

SHORT_NAMES = {"deadline_s": "deadline", "webhook_url": "webhook", "formats": "export"}
"""Field -> its flag, where the names differ."""


def with_job_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command that takes `options`, a dict, to have one flag for each job option."""
    schemas = option_schemas()

    @wraps(command)
    def run(**arguments: Any) -> None:
        values = {name: arguments.pop(name) for name in schemas}
        options = {name: value for name, value in values.items() if value is not None}
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
        case _:
            kind = str
    annotation = Annotated[kind | None, typer.Option(flag, help=help_, **limits)]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
