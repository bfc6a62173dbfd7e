"""Untrusted names and values in messages."""

from palettery.app.checkpoints.quoting import format_shape, quote_json, quote_text


def test_control_characters_are_escaped_and_long_texts_truncated():
    assert quote_text("a\n\x1b[31m") == r"'a\n\x1b[31m'"
    assert quote_text("a" * 81) == repr("a" * 77 + "...")


def test_json_values_are_described_in_short():
    assert quote_json({"a": 1, "b\n": 2, "c": 3, "d": 4}) == r"an object of 'a', 'b\n', 'c'"
    assert quote_json({}) == "an object of nothing"
    assert quote_json([1, 2]) == "a list"
    scalars = (True, False, None, 3, -0.5, "3")
    assert [quote_json(each) for each in scalars] == ["true", "false", "null", "3", "-0.5", "'3'"]
    assert quote_json("x" * 1000) == repr("x" * 77 + "...")


def test_huge_shapes_stay_short():
    assert format_shape((2, 1 << 62)) == "[2, huge]"
    assert format_shape(range(9)) == "[0, 1, 2, 3, 4, 5, 6, 7, ...]"
