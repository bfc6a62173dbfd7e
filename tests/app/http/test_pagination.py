"""Cursors are decoded to what was encoded, or rejected."""

import base64
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from palettery.app.errors import BadInput
from palettery.app.http.pagination import (
    decode_cursor,
    decode_key_cursor,
    encode_cursor,
    encode_key_cursor,
)

KEY = re.compile(r"[a-z@0-9-]+")


def test_cursor_holds_its_key():
    assert decode_key_cursor(encode_key_cursor("name@3"), KEY) == "name@3"
    assert decode_key_cursor(None, KEY) is None


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "?",
        "ä",
        "a",
        encode_key_cursor(""),
        encode_key_cursor("NAME"),
        encode_key_cursor("a\n"),
        base64.urlsafe_b64encode(b"\xff").decode(),
        encode_key_cursor("name")[:-1],
    ],
)
def test_cursor_that_was_never_given(cursor):
    with pytest.raises(BadInput, match="the cursor is not valid"):
        decode_key_cursor(cursor, KEY)


def test_cursor_holds_its_time_in_utc():
    at = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    result, id_ = decode_cursor(encode_cursor(at, "x"))
    assert (result.isoformat(), result.tzinfo, id_) == ("2025-12-31T23:00:00+00:00", UTC, "x")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "[1, 2]",
        '["2026-01-01T00:00:00", "x"]',
        '["2026-01-01T00:00:00+00:00", 1]',
        '["0001-01-01T00:00:00+14:00", "x"]',
        '["9999-12-31T23:59:59-14:00", "x"]',
    ],
)
def test_cursor_of_no_time_or_one_that_utc_has_not(content):
    with pytest.raises(BadInput, match="the cursor is not valid"):
        decode_cursor(encode_key_cursor(content))
