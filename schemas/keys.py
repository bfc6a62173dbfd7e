"""API keys, and the limits and usage of their owners."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, NonNegativeInt

from palettery.schemas.base import Schema

Scope = Literal["read", "write", "admin"]
"""Permission of a key: `read`, `write`, or `admin` to manage keys; none implies another."""
OwnerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
KeyName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Count = Annotated[NonNegativeInt, Field(le=(1 << 31) - 1)]
Bytes = Annotated[NonNegativeInt, Field(le=(1 << 63) - 1)]


class OwnerLimits(Schema):
    """Limits of an owner."""

    queued_jobs: Count | None = None
    """Largest number of unfinished jobs; null for no limit."""
    stored_bytes: Bytes | None = None
    """Largest total size of uploads, models and artifacts; null for no limit."""
    upload_bytes: Bytes | None = None
    """Largest size of one upload; null for no limit."""


class KeyLimits(Schema):
    """Limits of a key, which override those of the service."""

    queued_jobs: Count | None = None
    """Largest number of unfinished jobs of the owner; null for the service's limit."""
    stored_bytes: Bytes | None = None
    """Largest total size of the owner's uploads, models and artifacts; null for the service's
    limit."""
    upload_bytes: Bytes | None = None
    """Largest size of one upload; null for the service's limit."""


class NewKey(KeyLimits):
    """A key to create."""

    owner: OwnerName
    """Owner of the jobs, models and uploads that the key gives access to. Several keys can have the
    same owner. `local` owns everything that was created without keys."""
    name: KeyName
    """Name of the key, to distinguish it from others."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=3)] = ("read", "write")
    """Permissions of the key."""
    expires_at: AwareDatetime | None = None
    """Expiry time of the key, at most a hundred years from now; null for a key that never
    expires."""


class Key(KeyLimits):
    """A key, without its secret."""

    id: str
    """Id of the key, used in paths."""
    owner: str
    """Owner of the jobs, models and uploads that the key gives access to."""
    name: str
    """Name of the key."""
    prefix: str
    """First characters of the secret."""
    scopes: tuple[Scope, ...]
    """Permissions of the key."""
    created_at: datetime
    """Time the key was created, in UTC."""
    expires_at: datetime | None = None
    """Expiry time of the key, in UTC; null for a key that never expires."""
    revoked_at: datetime | None = None
    """Time the key was revoked, in UTC; null for a key that is not revoked."""


class CreatedKey(Schema):
    """A new key with its secret."""

    key: Key
    """Key that was created."""
    secret: str
    """Secret to send as `Authorization: Bearer <secret>`. It cannot be retrieved again."""


class KeyPage(Schema):
    """One page of keys, newest first."""

    items: tuple[Key, ...]
    """Keys of this page."""
    next_cursor: str | None = None
    """Value of the `cursor` parameter for the next page; null on the last page."""


class Usage(Schema):
    """Current usage of an owner."""

    queued_jobs: NonNegativeInt
    """Number of unfinished jobs."""
    stored_bytes: NonNegativeInt
    """Total size of the owner's model files (each counted once), configs, open uploads and job
    results; a job that has not succeeded counts with its predicted size."""


class Me(Schema):
    """The caller of the request."""

    owner: str
    """Owner whose jobs, models and uploads the caller sees."""
    scopes: tuple[Scope, ...]
    """Permissions of the caller."""
    limits: OwnerLimits
    """Limits of the caller's owner."""
    used: Usage
    """Current usage of the caller's owner."""
