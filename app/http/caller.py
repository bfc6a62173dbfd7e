"""The caller of a request: an owner with scopes and limits."""

from dataclasses import dataclass
from typing import get_args

from palettery.schemas.keys import OwnerLimits, Scope

SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
LOCAL = "local"
"""Owner of all requests on a server without keys."""
ADMIN = "admin"
"""Owner of PALETTERY_ADMIN_KEY."""
UNLIMITED = OwnerLimits()


@dataclass(frozen=True)
class Caller:
    """The caller of a request."""

    owner: str = LOCAL
    scopes: frozenset[Scope] = SCOPES
    limits: OwnerLimits = UNLIMITED
    """Limits of its key; the service's where the key sets none."""
    key_prefix: str | None = None
    """First characters of its key; None without a key in the database."""
