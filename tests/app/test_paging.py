"""Cursors: what comes back is what was sealed, or a refusal."""

import base64
import re

import pytest

from app.errors import BadInput
from app.paging import sealed_key, unsealed_key

KEY = re.compile(r"[a-z@0-9-]+")


def test_cursor_holds_its_key():
    assert unsealed_key(sealed_key("name@3"), KEY) == "name@3"
    assert unsealed_key(None, KEY) is None


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "?",
        "ä",
        "a",
        sealed_key(""),
        sealed_key("NAME"),
        sealed_key("a\n"),
        base64.urlsafe_b64encode(b"\xff").decode(),
        sealed_key("name")[:-1],
    ],
)
def test_cursor_that_was_never_given(cursor):
    with pytest.raises(BadInput, match="the cursor is not one this server gave"):
        unsealed_key(cursor, KEY)
