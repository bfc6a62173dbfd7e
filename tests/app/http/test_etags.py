"""ETags in If-Match and If-None-Match. Source: RFC 9110, sections 8.8.3 and 13.1."""

import pytest

from palettery.app.http.etags import is_listed_in_if_none_match, satisfies_if_match

TAG = '"a"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, True), ("*", True), (TAG, True), ('"b", "a"', True), ('"b"', False), ('W/"a"', False)],
)
def test_if_match_compares_strongly(header, expected):
    assert satisfies_if_match(header, TAG) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [("", False), ("*", True), (TAG, True), ('"b",W/"a"', True), ('"b"', False), ("a", False)],
)
def test_if_none_match_compares_weakly(header, expected):
    assert is_listed_in_if_none_match(header, TAG) is expected
