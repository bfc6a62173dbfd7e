"""Idempotency keys and the content of their requests."""

import pytest

from palettery.app.errors import IdempotencyConflict
from palettery.app.http.idempotency import keyed_request


def test_request_without_a_key_is_none():
    assert keyed_request(None, "anything") is None


def test_same_content_in_any_order_is_the_same_request():
    first = keyed_request("k", [("a", 1)], {"x": 1, "y": None})
    second = keyed_request("k", [["a", 1]], {"y": None, "x": 1})
    assert first == second
    first.check(second.sha256)


@pytest.mark.parametrize("parts", [([1, 2],), ([2], 1), ("[1]", 2), ([1],), (None,), ()])
def test_other_content_is_another_request(parts):
    request = keyed_request("k", [1], 2)
    with pytest.raises(IdempotencyConflict, match="the Idempotency-Key 'k' was used with another"):
        request.check(keyed_request("k", *parts).sha256)


def test_row_without_a_request_is_another():
    with pytest.raises(IdempotencyConflict):
        keyed_request("k", 1).check(None)
