"""Bounded parsing of untrusted JSON."""

import pytest

from palettery.app.checkpoints import json_scanner
from palettery.app.checkpoints.json_scanner import JsonScanner
from palettery.app.errors import InvalidModel, TooLarge
from palettery.app.settings import Limits


def parse(text):
    scanner = JsonScanner(text, "the file", Limits())
    fields = {key: scanner.read_value() for key in scanner.object_keys()}
    scanner.expect_end()
    return fields


def test_an_object_is_read_key_by_key():
    assert parse(' { "a" : [1, {"b": null}] ,\n"ü": "x" } ') == {"a": [1, {"b": None}], "ü": "x"}
    assert parse("{}") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the end of the text, near character 0"),
        ("[1]", r"'\[' instead of '{'"),
        ('{"a" 1}', "'1' instead of ':'"),
        ('{"a": 1', "the end of the text"),
        ("{a: 1}", "'a' instead of a string"),
        ('{"a', "an invalid string"),
        ('{"a": tru}', "an invalid value"),
        ('{"a": ' + "[" * 100_000, "nested too deep"),
        ('{"a": 1, "a": 2}', "names 'a' twice"),
        ('{"a": {"b": 1, "b": 2}}', "'b' occurs twice"),
        ('{"a": 1} x', "more text after its closing brace"),
    ],
)
def test_invalid_json_is_reported(text, message):
    with pytest.raises(InvalidModel, match=message):
        parse(text)


def test_the_number_of_values_is_limited(monkeypatch):
    monkeypatch.setattr(json_scanner, "SPARE_VALUES", 2)
    JsonScanner("[1, 2]", "the file", Limits(tensors=1))
    with pytest.raises(TooLarge, match="up to 20 JSON values"):
        JsonScanner("[" * 20, "the file", Limits(tensors=1))
