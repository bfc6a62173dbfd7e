"""Options of a job, declared once.

The JSON body, the form and its description in OpenAPI, the client's arguments, the flags of the
command line and what the service hands on are all derived from `JobOptions`.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from palettery.schemas.base import Schema
from palettery.schemas.exports import ExportFormat
from palettery.schemas.labels import Label


class JobOptions(Schema):
    """Options of a job.

    Its config is given as `config`, `config_name` or `preset`: exactly one of the three.
    """

    config_name: str | None = Field(default=None, max_length=80)
    """A stored config: `name` for its newest version, or `name@version`."""
    preset: str | None = Field(default=None, max_length=64)
    """A preset instead of a config: `w4`, `w6` or `w8`."""
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
    keep_dense: bool = False
    """Export a tensor dense if a format cannot express it; without this, such a job is refused."""


def option_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each option's values other than null, with its description."""
    return {
        name: next((each for each in schema.get("anyOf", ()) if each["type"] != "null"), schema)
        | {"description": schema["description"].replace("\n", " ")}
        for name, schema in JobOptions.model_json_schema()["properties"].items()
    }
