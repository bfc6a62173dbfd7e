"""Who may call an endpoint, as its parameter: `caller: Reader`."""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from palettery.app.errors import Forbidden
from palettery.app.http.caller import Caller
from palettery.app.http.services import ServiceLookup
from palettery.app.keys.service import KeyService
from palettery.app.settings import names_loopback

BEARER = HTTPBearer(
    scheme_name="key",
    bearerFormat="plt_",
    description="A key of this server. Its scopes say what it may do: `read` for GET and HEAD, "
    "`write` for changes, `admin` for keys; none implies another. A server without keys, which "
    "listens on loopback only, asks for none.",
    auto_error=False,
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
Keys = Annotated[KeyService, Depends(ServiceLookup(KeyService))]


async def authenticate(
    request: Request,
    needed: SecurityScopes,
    sent: Credentials,
    keys: Keys,
) -> Caller:
    """Who a request comes from.

    Raises:
        Unauthenticated: there is no valid key.
        Forbidden: the key has not the scope that is needed; or there are no keys, and a page asks.
    """
    caller = await keys.known_caller(sent.credentials if sent else None)
    request.state.caller = caller  # for the log
    if sent is None:
        _check_no_page(request)
    missing = [scope for scope in needed.scopes if scope not in caller.scopes]
    if missing:
        raise Forbidden(
            f"this needs a key with the scope {missing[0]}; the key's are "
            f"{', '.join(sorted(caller.scopes))}"
        )
    return caller


def _check_no_page(request: Request) -> None:
    """Keep strangers' pages, open in a browser on this machine, from using a server without keys.

    Source: a name that was bound anew to 127.0.0.1 shows in the Host header (RFC 9110, section
    7.2), a page that changes anything across sites in the Origin header (RFC 6454, section 7).
    """
    for header, scheme in (("Host", "http://"), ("Origin", "")):
        said = request.headers.get(header)
        if said is not None and not names_loopback(_host_of(scheme + said)):
            raise Forbidden(
                f"without keys only this machine is served, and the {header} is {said[:100]!r}; "
                "ask 127.0.0.1, or make a key with `palettery keys create`"
            )


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


Reader = Annotated[Caller, Security(authenticate, scopes=["read"])]
Writer = Annotated[Caller, Security(authenticate, scopes=["write"])]
Admin = Annotated[Caller, Security(authenticate, scopes=["admin"])]
