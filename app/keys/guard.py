"""Who may call an endpoint, as its parameter: `caller: Reader`."""

from typing import Annotated

from fastapi import Request, Security
from fastapi.security import SecurityScopes

from app.keys.caller import Caller


def caller_of(_: Request, __: SecurityScopes) -> Caller:
    """Who a request comes from."""
    return Caller()


Reader = Annotated[Caller, Security(caller_of, scopes=["read"])]
Writer = Annotated[Caller, Security(caller_of, scopes=["write"])]
Admin = Annotated[Caller, Security(caller_of, scopes=["admin"])]
