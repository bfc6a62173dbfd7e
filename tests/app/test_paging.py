"""Cursors: what comes back is what was sealed, or a refusal."""

import base64
import re

import pytest

from app.errors import BadInput
from app.paging import sealed, unsealed

KEY = re.compile(r"[a-z@0-9-]+")


def test_cursor_holds_its_key():
    assert unsealed(sealed("name@3"), KEY) == "name@3"
    assert unsealed(None, KEY) is None


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "?",
        "ä",
        "a",
        sealed(""),
        sealed("NAME"),
        sealed("a\n"),
        base64.urlsafe_b64encode(b"\xff").decode(),
        sealed("name")[:-1],
    ],
)
def test_cursor_that_was_never_given(cursor):
    with pytest.raises(BadInput, match="the cursor is not one this server gave"):
        unsealed(cursor, KEY)
