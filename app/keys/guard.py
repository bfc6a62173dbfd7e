"""Who may call an endpoint, as its parameter: `caller: Reader`."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from app.errors import Forbidden
from app.keys.caller import Caller
from app.keys.service import Keys

BEARER = HTTPBearer(
    scheme_name="key",
    bearerFormat="plt_",
    description="A key of this server. Its scopes say what it may do: `read` for GET and HEAD, "
    "`write` for changes, `admin` for keys; none implies another. A server without keys, which "
    "listens on loopback only, asks for none.",
    auto_error=False,
)
Sent = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]


def keys_of(request: Request) -> Keys:
    """The service's keys."""
    found: Keys = request.state.keys
    return found


def caller_of(
    request: Request,
    needed: SecurityScopes,
    sent: Sent,
    keys: Annotated[Keys, Depends(keys_of)],
) -> Caller:
    """Who a request comes from; it waits for the database, so it runs in a thread.

    Raises:
        Unauthenticated: there is no valid key.
        Forbidden: the key has not the scope that is needed.
    """
    caller = keys.caller(sent.credentials if sent else None)
    request.state.caller = caller  # for the log
    missing = [scope for scope in needed.scopes if scope not in caller.scopes]
    if missing:
        raise Forbidden(
            f"this needs a key with the scope {missing[0]}; the key's are "
            f"{', '.join(sorted(caller.scopes))}"
        )
    return caller


Reader = Annotated[Caller, Security(caller_of, scopes=["read"])]
Writer = Annotated[Caller, Security(caller_of, scopes=["write"])]
Admin = Annotated[Caller, Security(caller_of, scopes=["admin"])]
