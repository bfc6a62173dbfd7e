"""Who asks: an owner, and what it may do."""

from dataclasses import dataclass
from typing import get_args

from palettery.schemas.keys import OwnerLimits, Scope

SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
LOCAL = "local"
"""Owner of everything on a server without keys."""
ADMIN = "admin"
"""Owner that PALETTERY_ADMIN_KEY stands for."""
UNLIMITED = OwnerLimits()


@dataclass(frozen=True)
class Caller:
    """Who a request comes from."""

    owner: str = LOCAL
    scopes: frozenset[Scope] = SCOPES
    limits: OwnerLimits = UNLIMITED
    """Those of its key, and of the service where that has none."""
    key_prefix: str | None = None
    """What is shown of its key; None for one that lies in no row."""
