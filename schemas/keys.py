"""API keys, and what their owners may have."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, NonNegativeInt

from palettery.schemas.base import Schema

Scope = Literal["read", "write", "admin"]
"""`read` looks, `write` changes, `admin` makes and revokes keys; none of them implies another."""
OwnerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
KeyName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Count = Annotated[NonNegativeInt, Field(le=(1 << 31) - 1)]
Bytes = Annotated[NonNegativeInt, Field(le=(1 << 63) - 1)]


class OwnerLimits(Schema):
    """The most an owner may have."""

    queued_jobs: Count | None = None
    """Jobs that have not ended; null for no limit."""
    stored_bytes: Bytes | None = None
    """Of uploads, models and artifacts; null for no limit."""
    upload_bytes: Bytes | None = None
    """Of one upload; null for no limit."""


class KeyLimits(Schema):
    """Limits of a key, which beat those of the service."""

    queued_jobs: Count | None = None
    """Jobs of its owner that have not ended; null for the service's limit."""
    stored_bytes: Bytes | None = None
    """Of its owner's uploads, models and artifacts; null for the service's limit."""
    upload_bytes: Bytes | None = None
    """Of one upload; null for the service's limit."""


class NewKey(KeyLimits):
    """A key to make."""

    owner: OwnerName
    """Whose rows it sees; keys of one owner see the same. `local` is who there was before keys."""
    name: KeyName
    """What it is for, to tell it from others."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=3)] = ("read", "write")
    """What it may do."""
    expires_at: AwareDatetime | None = None
    """When it stops to be valid, at most a hundred years from now; null for never."""


class Key(KeyLimits):
    """A key, without its secret."""

    id: str
    """Names the key in paths."""
    owner: str
    """Whose rows it sees."""
    name: str
    """What it is for."""
    prefix: str
    """How its secret begins."""
    scopes: tuple[Scope, ...]
    """What it may do."""
    created_at: datetime
    """When it was made."""
    expires_at: datetime | None = None
    """When it stops to be valid; null for never."""
    revoked_at: datetime | None = None
    """When it was revoked; null while it is not."""


class CreatedKey(Schema):
    """A new key with its secret."""

    key: Key
    """The key."""
    secret: str
    """What callers send, as `Authorization: Bearer <secret>`. It is shown this once."""


class KeyPage(Schema):
    """One page of keys, newest first."""

    items: tuple[Key, ...]
    """Keys of this page."""
    next_cursor: str | None = None
    """Pass as `cursor` to get the next page; null on the last."""


class Usage(Schema):
    """What an owner has."""

    queued_jobs: NonNegativeInt
    """Jobs that have not ended."""
    stored_bytes: NonNegativeInt
    """Of files of its models and jobs, each counted once, its configs, its open uploads, and all
    that its jobs have stored; a job that has not succeeded counts with what is expected of it."""


class Me(Schema):
    """Who is asking."""

    owner: str
    """Whose rows are seen."""
    scopes: tuple[Scope, ...]
    """What may be done."""
    limits: OwnerLimits
    """The most there may be."""
    used: Usage
    """What there is."""
