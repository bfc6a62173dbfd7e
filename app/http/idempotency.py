"""Requests that may be sent again without anything being done twice.

Source: draft-ietf-httpapi-idempotency-key-header; Stripe's `Idempotent-Replayed`.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header

from palettery.app.errors import IdempotencyConflict

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        description="Names this request, in 1 to 255 visible ASCII characters: sent again with "
        "the same content it gives what it gave, and does nothing.",
    ),
]
"""A parameter of an endpoint."""
REPLAYED = {"Idempotent-Replayed": "true"}
"""Header of an answer that was given before."""


class KeyTaken(Exception):
    """Something of the owner's has the key already."""


@dataclass(frozen=True)
class KeyedRequest:
    """A key of an owner's, and the request that it stands for."""

    key: str
    sha256: str
    """Of all that the request asks for."""

    def check(self, sha256: str | None) -> None:
        """See that a stored request is this one.

        Raises:
            IdempotencyConflict: it is another.
        """
        if sha256 != self.sha256:
            raise IdempotencyConflict(
                f"the Idempotency-Key {self.key[:64]!r} was sent with another request before; send "
                "a new key for a new request, or the same request again"
            )


def keyed_request(key: str | None, *parts: object) -> KeyedRequest | None:
    """A request under its key, told apart from others by JSON values; None without a key."""
    if key is None:
        return None
    text = json.dumps(parts, sort_keys=True)
    return KeyedRequest(key, hashlib.sha256(text.encode()).hexdigest())
