"""Bytes of a pickle in order."""

import pytest

from palettery.app.checkpoints.pickle_bytes import PickleBytes, TruncatedPickleError


def test_bytes_numbers_and_lines_in_order():
    data = PickleBytes(b"ab\x01\x02posix\nsystem\n.")
    assert data.take(2) == b"ab"
    assert data.take_unsigned(2) == 0x0201
    assert (data.take_line(), data.take_line()) == ("posix", "system")
    assert data.position == 17
    assert data.take(1) == b"."
    assert data.take(0) == b""


@pytest.mark.parametrize("read", [lambda data: data.take(3), PickleBytes.take_line])
def test_too_few_bytes_are_an_error_and_none_is_taken(read):
    data = PickleBytes(b"ab")
    with pytest.raises(TruncatedPickleError, match="ends too early"):
        read(data)
    assert data.position == 0
