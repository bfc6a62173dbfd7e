"""Options of a job, declared once.

The JSON body, the form and its description in OpenAPI, the client's arguments, the flags of the
command line, and the options that the service stores are all derived from `JobOptions`.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from palettery.schemas.base import Schema
from palettery.schemas.evaluation import EvaluationOptions
from palettery.schemas.exports import ExportFormat
from palettery.schemas.labels import Label
from palettery.schemas.targets import Choices, Target

TARGET_CHARACTERS = 64
"""Most characters of a target as text."""


class JobOptions(Schema):
    """Options of a job.

    Its config is given as `config`, `config_name` or `preset`: exactly one of the three, or with a
    target at most one.
    """

    config_name: str | None = Field(default=None, max_length=80)
    """A stored config: `name` for its newest version, or `name@version`."""
    preset: str | None = Field(default=None, max_length=64)
    """A preset instead of a config: `w4`, `w6`, `w8` or `small`."""
    label: Label | None = None
    """Name of the job in lists and on the page; two jobs may have the same."""
    strict: bool = False
    """Refuse the request if a key of the config matches nothing, or a tensor does not fit its
    rule."""
    reuse: bool = True
    """Reuse results of earlier jobs where bytes and spec are the same."""
    priority: int = Field(default=5, ge=0, le=9)
    """Jobs of a higher priority run before the other jobs of their owner; owners take turns."""
    deadline_s: int | None = Field(default=None, ge=1, le=30 * 86_400)
    """Seconds from now after which the job fails if it has not ended; null for no deadline."""
    webhook_url: str | None = Field(default=None, max_length=2048)
    """URL that receives a signed message when the job has ended."""
    formats: Annotated[Sequence[ExportFormat], AfterValidator(tuple)] = Field(
        default=(), max_length=8
    )
    """Further formats to export the artifact to, beside the packed one."""
    calibration_id: str | None = Field(default=None, max_length=36)
    """A calibration that has succeeded, of a model with the same weights: its sensitivities weight
    the errors."""
    feedback: bool = True
    """Minimise the error of layers' outputs where the calibration has second moments of their
    inputs; without a calibration this has no effect."""
    keep_dense: bool = False
    """Export a tensor dense if a format cannot express it; without this, such a job is refused."""
    evaluate: EvaluationOptions | None = None
    """Run the model before and after palettization on uploaded inputs (`inputs_id`), and fail the
    job unless the outputs reach the quality `at_least`."""
    target: Target | None = None
    """Size to reach, such as `16MB`, `3.5bpw` (bits for each weight) or `0.25x`: the bits of every
    tensor are chosen for the least expected error. Or a quality, such as `cosine>=0.98`: the job
    searches for the smallest artifact that reaches it on the inputs of `evaluate`. Rules of a
    config that set a spec or null stay."""
    choices: Choices | None = None
    """What a target may choose; null for the defaults."""


def option_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each option's values other than null, with its description."""
    model_schema = JobOptions.model_json_schema()
    definitions = model_schema.pop("$defs", {})
    # Forms and flags have targets as text, and choices as one document.
    overrides = {
        "target": {"type": "string", "maxLength": TARGET_CHARACTERS},
        "choices": {"type": "object", "properties": definitions["Choices"]["properties"]},
    }
    return {
        name: (overrides.get(name) or _non_null_schema(schema, definitions))
        | {"description": schema["description"].replace("\n", " ")}
        for name, schema in model_schema["properties"].items()
    }


def _non_null_schema(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a value that is not null, with all references inlined."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    for variant in schema.get("anyOf", ()):
        if variant.get("type") != "null":
            return _non_null_schema(variant, definitions)
    properties = schema.get("properties", {})
    if not properties:
        return schema
    inlined = {
        name: _non_null_schema(variant, definitions)
        | {"description": variant.get("description", "")}
        for name, variant in properties.items()
    }
    return schema | {"properties": inlined}
