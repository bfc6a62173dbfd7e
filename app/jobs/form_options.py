"""Job options as text fields of a form, derived from the JSON Schema of `JobOptions`."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from palettery.app.errors import InvalidUpload
from palettery.schemas.job_options import JobOptions, option_schemas

FLAGS = {"true": True, "false": False}
WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")

_SCHEMAS = option_schemas()


def read_form_options(fields: Mapping[str, bytes]) -> JobOptions:
    """Return the options in a form's text fields.

    Raises:
        InvalidUpload: names every field at fault, its value and what is allowed.
    """
    texts = {name: text.decode(errors="replace") for name, text in fields.items()}
    if not texts.get("label"):  # a page sends the field even if nothing was entered
        texts.pop("label", None)
    values = {name: _value(text, _SCHEMAS[name]) for name, text in texts.items()}
    try:
        return JobOptions.model_validate(values, strict=True)
    except ValidationError as error:
        faults = {details["loc"][0]: details for details in error.errors(include_url=False)}
        raise InvalidUpload(
            "; ".join(_message(str(name), texts, details) for name, details in faults.items())
        ) from error


def form_properties() -> dict[str, Any]:
    """Return the JSON Schema of each option's text field."""
    return {name: _text_schema(schema) for name, schema in _SCHEMAS.items()}


def _value(text: str, schema: Mapping[str, Any]) -> object:
    """Return the value of a text; invalid text is returned as it is, and fails validation."""
    match schema["type"]:
        case "boolean":
            return FLAGS.get(text, text)
        case "integer":
            return int(text) if WHOLE_NUMBER.fullmatch(text) else text
        case "array":
            names, known = text.split(",") if text else [], schema["items"]["enum"]
            unknown = [name for name in names if name not in known]
            return tuple(name for name in known if name in names) + tuple(unknown)
        case "object":
            with suppress(ValueError, RecursionError):
                return json.loads(text)
    return text


def _message(name: str, texts: Mapping[str, str], details: ErrorDetails) -> str:
    if details["type"] == "value_error":
        return f"the field {name!r}: {details['ctx']['error']}"
    if len(details["loc"]) > 1 and _SCHEMAS[name]["type"] == "object":
        place = ".".join(map(str, details["loc"][1:]))
        return f"the field {name!r}: {place}: {details['msg']}; send {_allowed(_SCHEMAS[name])}"
    return f"the field {name!r} is {texts[name][:64]!r}; send {_allowed(_SCHEMAS[name])}"


def _allowed(schema: Mapping[str, Any]) -> str:
    match schema["type"]:
        case "boolean":
            return "true or false"
        case "integer":
            return f"a whole number from {schema['minimum']:,} to {schema['maximum']:,}"
        case "array":
            return f"names of {', '.join(schema['items']['enum'])}, with commas between them"
        case "object":
            return f"a JSON object with {', '.join(schema['properties'])}"
    return f"at most {schema['maxLength']:,} characters"


def _text_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    description = {"description": schema["description"]}
    match schema["type"]:
        case "boolean":
            default = str(schema["default"]).lower()
            return description | {"type": "string", "enum": [*FLAGS], "default": default}
        case "array":
            name = f"({'|'.join(schema['items']['enum'])})"
            return description | {"type": "string", "pattern": f"^{name}(,{name})*$"}
        case "object":
            text = f"{schema['description']} As the text of a JSON object."
            return {"type": "string", "contentMediaType": "application/json", "description": text}
    return {key: value for key, value in schema.items() if key != "title"}
