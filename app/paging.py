"""Cursors of pages: where a page ended, sealed so that nobody builds on what is in them."""

import base64
import binascii
import json
from datetime import datetime

from app.errors import BadInput


def sealed(at: datetime, id_: str) -> str:
    """A cursor behind the item of this time and id."""
    return base64.urlsafe_b64encode(json.dumps([at.isoformat(), id_]).encode()).decode()


def unsealed(cursor: str) -> tuple[datetime, str]:
    """What a cursor holds.

    Raises:
        BadInput: it is none of ours.
    """
    try:
        at, id_ = json.loads(base64.b64decode(cursor.encode(), altchars=b"-_", validate=True))
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None or not isinstance(id_, str) or not id_.isprintable():
            raise ValueError
    except (binascii.Error, TypeError, ValueError, RecursionError) as error:
        raise BadInput("the cursor is not one this server gave; start again without it") from error
    return moment, id_
