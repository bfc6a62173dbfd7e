"""RFC 9457 problem details: the body of every error response."""

from palettery.schemas.base import Schema


class InvalidField(Schema):
    """One invalid field of a document."""

    pointer: str
    """JSON pointer to the field in the document, such as `/global_config/op_state_spec`."""
    detail: str
    """Message with the value received, the values allowed, and what to do."""
    line: int | None = None
    """Line number of the field in the document, from 1; null if unknown."""


class Problem(Schema):
    """An error response, for people and programs."""

    type: str
    """URI of the kind of problem: `urn:palettery:problem:<code>`."""
    title: str
    """Title of the kind of problem, the same for every occurrence."""
    status: int
    """HTTP status code."""
    code: str
    """Stable machine-readable name of the kind of problem, such as `unknown_preset`."""
    detail: str
    """Message with the value received, the values allowed, and what to do."""
    instance: str | None = None
    """Path of the request."""
    errors: tuple[InvalidField, ...] = ()
    """Invalid fields, for validation problems."""
