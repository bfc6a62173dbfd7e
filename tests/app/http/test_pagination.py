"""Cursors: what comes back is what was sealed, or a refusal."""

import base64
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from palettery.app.errors import BadInput
from palettery.app.http.pagination import sealed, sealed_key, unsealed, unsealed_key

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


def test_cursor_holds_its_time_in_utc():
    at = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    found, id_ = unsealed(sealed(at, "x"))
    assert (found.isoformat(), found.tzinfo, id_) == ("2025-12-31T23:00:00+00:00", UTC, "x")


@pytest.mark.parametrize(
    "held",
    [
        "[]",
        "[1, 2]",
        '["2026-01-01T00:00:00", "x"]',
        '["2026-01-01T00:00:00+00:00", 1]',
        '["0001-01-01T00:00:00+14:00", "x"]',
        '["9999-12-31T23:59:59-14:00", "x"]',
    ],
)
def test_cursor_of_no_time_or_one_that_utc_has_not(held):
    with pytest.raises(BadInput, match="the cursor is not one this server gave"):
        unsealed(sealed_key(held))
