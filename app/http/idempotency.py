"""Idempotency keys: a repeated request has no further effect.

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
        description="Identifies this request, with 1 to 255 visible ASCII characters: a repeated "
        "request with the same key and content returns the first result and has no effect.",
    ),
]
"""Header parameter of an endpoint."""
REPLAYED = {"Idempotent-Replayed": "true"}
"""Header of a replayed response."""


class KeyTaken(Exception):
    """The owner has already used the key."""


@dataclass(frozen=True)
class KeyedRequest:
    """An idempotency key with the digest of its request."""

    key: str
    sha256: str
    """SHA-256 of the request's content."""

    def check(self, sha256: str | None) -> None:
        """Check that a stored request has the same content.

        Raises:
            IdempotencyConflict: the content differs.
        """
        if sha256 != self.sha256:
            raise IdempotencyConflict(
                f"the Idempotency-Key {self.key[:64]!r} was used with another request; send "
                "a new key for a new request, or repeat the same request"
            )


def keyed_request(key: str | None, *parts: object) -> KeyedRequest | None:
    """Return a key with the digest of its request (JSON values); None without a key."""
    if key is None:
        return None
    text = json.dumps(parts, sort_keys=True)
    return KeyedRequest(key, hashlib.sha256(text.encode()).hexdigest())
