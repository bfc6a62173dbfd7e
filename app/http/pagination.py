"""Pagination with opaque cursors: a cursor encodes the last item of a page."""

import base64
import binascii
import json
import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query

from palettery.app.errors import BadInput

Limit = Annotated[int, Query(ge=1, le=1000)]
"""Query parameter: maximum number of items of a page."""
Cursor = Annotated[str | None, Query(max_length=200)]
"""Query parameter: `next_cursor` of the previous page."""


def encode_cursor(at: datetime, id_: str) -> str:
    """Return the cursor after the item with this time and id."""
    return encode_key_cursor(json.dumps([at.isoformat(), id_]))


def decode_cursor(cursor: str) -> tuple[datetime, str]:
    """Return the time in UTC and the id that a cursor encodes.

    Raises:
        BadInput: the cursor is not valid.
    """
    try:
        at, id_ = json.loads(_decode(cursor))
        time = datetime.fromisoformat(at)
        if time.tzinfo is None or not isinstance(id_, str) or not id_.isprintable():
            raise ValueError
        return time.astimezone(UTC), id_
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _invalid_cursor() from error


def encode_key_cursor(key: str) -> str:
    """Return the cursor after the item with this key, in a list sorted by key."""
    return base64.urlsafe_b64encode(key.encode()).decode()


def decode_key_cursor(cursor: str | None, key: re.Pattern[str]) -> str | None:
    """Return the key that a cursor encodes, which must match a pattern; None without a cursor.

    Raises:
        BadInput: the cursor is not valid.
    """
    if cursor is None:
        return None
    decoded = _decode(cursor)
    if not key.fullmatch(decoded):
        raise _invalid_cursor()
    return decoded


def _decode(cursor: str) -> str:
    try:
        return base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise _invalid_cursor() from error


def _invalid_cursor() -> BadInput:
    return BadInput("the cursor is not valid; start again without it")
