"""OpenAPI description of the two request bodies that submit a job or a plan."""

from typing import Any

from palettery.app.jobs.form_options import form_properties
from palettery.schemas.job_options import option_schemas
from palettery.schemas.jobs import JobSubmission

FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
FORM: dict[str, Any] = {
    "type": "object",
    "required": ["model"],
    "additionalProperties": False,
    "properties": {
        "model": FILES | {"description": "The model's file; several for shards and their index."},
        "sensitivities": FILES
        | {
            "description": "Importance of each weight's error: one tensor per weight tensor, of "
            "its name and shape, in a file of one of the model's formats."
        },
        "config": {
            "type": "string",
            "description": "Config as JSON or YAML, as text or as a file. Exactly one of `config`, "
            "`config_name` and `preset` is required.",
        },
        **form_properties(),
    },
}
MODEL_ID = "7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730"
EXAMPLES: dict[str, Any] = {
    "preset": {"value": {"model_id": MODEL_ID, "preset": "w4"}},
    "config_name": {
        "value": {"model_id": MODEL_ID, "config_name": "vision@3", "priority": 9, "strict": True}
    },
    "config": {
        "value": {
            "model_id": MODEL_ID,
            "config": {"global_config": {"op_state_spec": {"weight": {"n_bits": 4}}}},
        }
    },
    "target": {"value": {"model_id": MODEL_ID, "target": {"size_bytes": 16_000_000}}},
}


def _submission() -> dict[str, Any]:
    """Return the schema of the JSON body; the config is a component of OpenAPI anyway."""
    schema = JobSubmission.model_json_schema(ref_template="#/components/schemas/{model}")
    defined = schema.pop("$defs")
    objects = {
        name: defined["Choices"] if name == "choices" else each
        for name, each in option_schemas().items()
        if each["type"] == "object"
    }
    nullable = {
        name: {"anyOf": [each, {"type": "null"}], "default": None} for name, each in objects.items()
    }
    return schema | {"properties": schema["properties"] | nullable}


BODIES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "JSON for a model that was uploaded before, or a form with its files.",
        "content": {
            "application/json": {"schema": _submission(), "examples": EXAMPLES},
            "multipart/form-data": {"schema": FORM},
        },
    }
}
