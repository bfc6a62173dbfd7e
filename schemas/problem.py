"""RFC 9457 problem details: the one shape of every error response."""

from palettery.schemas.base import Schema


class InvalidField(Schema):
    """One field that did not validate."""

    pointer: str
    """JSON pointer into the document that was sent, such as `/global_config/op_state_spec`."""
    detail: str
    """What was got, what is allowed, what to do."""
    line: int | None = None
    """Line of the document where it stands, from 1; null where that is not known."""


class Problem(Schema):
    """An error, told in a way that both people and programs can act on."""

    type: str
    """URI of the kind of problem: `urn:palettery:problem:<code>`."""
    title: str
    """What kind of problem it is, the same for every occurrence."""
    status: int
    """HTTP status."""
    code: str
    """Stable machine-readable name, such as `unknown_preset`."""
    detail: str
    """What was got, what is allowed, what to do."""
    instance: str | None = None
    """Path of the request."""
    errors: tuple[InvalidField, ...] = ()
    """Every field at fault, for validation problems."""
