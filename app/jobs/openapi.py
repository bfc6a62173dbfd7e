"""How the API reference tells of the two bodies that ask for a job or a plan."""

from typing import Any

from palettery.schemas.exports import EXPORT_FORMATS
from palettery.schemas.jobs import JobSubmission
from palettery.schemas.labels import MOST_LABEL_CHARACTERS

FORMATS = "|".join(EXPORT_FORMATS)

FLAG = {"type": "string", "enum": ["true", "false"]}
FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
FORM: dict[str, Any] = {
    "type": "object",
    "required": ["model"],
    "additionalProperties": False,
    "properties": {
        "model": FILES | {"description": "The model's file; several for shards and their index."},
        "sensitivities": FILES
        | {
            "description": "How much the error of each weight counts: one tensor per weight, of "
            "its name and shape, in a file of the model's formats."
        },
        "config": {
            "type": "string",
            "description": "Config as JSON or YAML, as text or as a file. Of `config`, "
            "`config_name` and `preset` exactly one is given.",
        },
        "config_name": {
            "type": "string",
            "description": "A config that is stored: `name` for its newest version, or "
            "`name@version`.",
        },
        "preset": {"type": "string", "description": "Name of a preset, instead of a config."},
        "label": {
            "type": "string",
            "maxLength": MOST_LABEL_CHARACTERS,
            "description": "What to call the job, in lists and on the page.",
        },
        "priority": {
            "type": "integer",
            "minimum": 0,
            "maximum": 9,
            "default": 5,
            "description": "Of an owner's jobs, one of a higher priority goes first; owners take "
            "turns.",
        },
        "deadline_s": {
            "type": "integer",
            "minimum": 1,
            "maximum": 2_592_000,
            "description": "Seconds from now until the job is given up.",
        },
        "reuse": FLAG
        | {
            "default": "true",
            "description": "Take results of earlier jobs where bytes and spec are the same.",
        },
        "strict": FLAG
        | {
            "default": "false",
            "description": "Refuse the request when a key of the config matches nothing, or a "
            "tensor cannot take what a rule asks for it.",
        },
        "webhook_url": {
            "type": "string",
            "maxLength": 2048,
            "description": "Is sent a signed message when the job has ended.",
        },
        "formats": {
            "type": "string",
            "pattern": f"^({FORMATS})(,({FORMATS}))?$",
            "description": "Other forms that the artifact is to have, with commas between them.",
        },
        "keep_dense": FLAG
        | {
            "default": "false",
            "description": "Have tensors dense in a form that cannot express them; else such a "
            "job is refused.",
        },
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
}


def _submission() -> dict[str, Any]:
    """The schema of the JSON body; the models in it are components of the document anyway."""
    schema = JobSubmission.model_json_schema(ref_template="#/components/schemas/{model}")
    return {key: value for key, value in schema.items() if key != "$defs"}


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
