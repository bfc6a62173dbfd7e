"""Authentication and authorization of endpoints, by parameters such as `caller: Reader`."""

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
    description="An API key of this server. Its scopes are `read` for GET and HEAD, `write` for "
    "changes, `admin` for keys; no scope implies another. A server without keys listens on "
    "loopback only and requires none.",
    auto_error=False,
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
Keys = Annotated[KeyService, Depends(ServiceLookup(KeyService))]


async def authenticate(
    request: Request,
    required: SecurityScopes,
    credentials: Credentials,
    keys: Keys,
) -> Caller:
    """Return the caller of a request.

    Raises:
        Unauthenticated: the API key is missing or invalid.
        Forbidden: the key lacks a scope; or there are no keys, and another site's page sent it.
    """
    caller = await keys.authenticate(credentials.credentials if credentials else None)
    request.state.caller = caller  # for the log
    if credentials is None:
        _check_not_cross_site(request)
    missing = [scope for scope in required.scopes if scope not in caller.scopes]
    if missing:
        raise Forbidden(
            f"this needs a key with the scope {missing[0]}; this key has "
            f"{', '.join(sorted(caller.scopes))}"
        )
    return caller


def _check_not_cross_site(request: Request) -> None:
    """Reject requests of other sites' pages to a server without keys.

    DNS rebinding to 127.0.0.1 shows in the Host header, cross-site requests in the Origin header.
    Source: RFC 9110, section 7.2; RFC 6454, section 7.
    """
    for header, scheme in (("Host", "http://"), ("Origin", "")):
        value = request.headers.get(header)
        if value is not None and not names_loopback(_host(scheme + value)):
            raise Forbidden(
                f"a server without keys serves this machine only, and the {header} header is "
                f"{value[:100]!r}; use 127.0.0.1, or create a key with `palettery keys create`"
            )


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


Reader = Annotated[Caller, Security(authenticate, scopes=["read"])]
Writer = Annotated[Caller, Security(authenticate, scopes=["write"])]
Admin = Annotated[Caller, Security(authenticate, scopes=["admin"])]
