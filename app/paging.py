"""Lists page by page: a cursor holds the key of the last row that was given."""

import base64
import binascii
import re
from typing import Annotated

from fastapi import Query

from app.errors import BadInput

Limit = Annotated[int, Query(ge=1, le=1000)]
"""How many rows of a list are asked for."""
Cursor = Annotated[str | None, Query(max_length=200)]
"""Where the page before ended."""


def sealed(key: str) -> str:
    """The cursor behind the row with this key."""
    return base64.urlsafe_b64encode(key.encode()).decode()


def unsealed(cursor: str | None, key: "re.Pattern[str]") -> str | None:
    """The key in a cursor, which must look like one; None without a cursor.

    Raises:
        BadInput: this server gave no such cursor.
    """
    if cursor is None:
        return None
    try:
        found = base64.urlsafe_b64decode(cursor.encode()).decode()
    except (binascii.Error, ValueError):
        found = ""
    if not key.fullmatch(found):
        raise BadInput("the cursor is not one this server gave; start again without it")
    return found
