"""Who asks: an owner, and what it may do."""

from dataclasses import dataclass
from typing import Literal, get_args

Scope = Literal["read", "write", "admin"]
SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
LOCAL = "local"
"""Owner of everything on a server without keys."""


@dataclass(frozen=True)
class OwnerLimits:
    """The most an owner may have; None is no limit."""

    queued_jobs: int | None = None
    """Jobs that have not ended."""
    stored_bytes: int | None = None
    """Of uploads, models and artifacts."""
    upload_bytes: int | None = None
    """Of one upload."""


@dataclass(frozen=True)
class Caller:
    """Who a request comes from."""

    owner: str = LOCAL
    scopes: frozenset[Scope] = SCOPES
    limits: OwnerLimits = OwnerLimits()
