"""Base class of all schemas."""

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """A closed, frozen pydantic model whose field docstrings become JSON Schema descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
