"""Lists page by page: a cursor holds where a page ended, sealed so that nobody builds on it."""

import base64
import binascii
import json
import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query

from palettery.app.errors import BadInput

Limit = Annotated[int, Query(ge=1, le=1000)]
"""How many rows of a list are asked for."""
Cursor = Annotated[str | None, Query(max_length=200)]
"""Where the page before ended."""


def encode_cursor(at: datetime, id_: str) -> str:
    """A cursor behind the item of this time and id."""
    return encode_key_cursor(json.dumps([at.isoformat(), id_]))


def decode_cursor(cursor: str) -> tuple[datetime, str]:
    """What a cursor holds, its time in UTC.

    Raises:
        BadInput: it is none of ours.
    """
    try:
        at, id_ = json.loads(_opened(cursor))
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None or not isinstance(id_, str) or not id_.isprintable():
            raise ValueError
        return moment.astimezone(UTC), id_
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _strange() from error


def encode_key_cursor(key: str) -> str:
    """A cursor behind the item with this key, of a list in the order of keys."""
    return base64.urlsafe_b64encode(key.encode()).decode()


def decode_key_cursor(cursor: str | None, key: re.Pattern[str]) -> str | None:
    """The key that a cursor holds, which must look like one; None without a cursor.

    Raises:
        BadInput: it is none of ours.
    """
    if cursor is None:
        return None
    found = _opened(cursor)
    if not key.fullmatch(found):
        raise _strange()
    return found


def _opened(cursor: str) -> str:
    try:
        return base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise _strange() from error


def _strange() -> BadInput:
    return BadInput("the cursor is not one this server gave; start again without it")
