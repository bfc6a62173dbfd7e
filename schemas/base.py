"""Base class of all schemas."""

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """A closed, frozen pydantic model whose field docstrings become JSON Schema descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def is_empty(value: object) -> bool:
    """Return whether a value is empty or false; for `exclude_if`, to leave such fields out."""
    return not value


def is_none(value: object) -> bool:
    """Return whether a value is None; for `exclude_if`, to leave such fields out."""
    return value is None
