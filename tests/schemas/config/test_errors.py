"""Messages about config documents, part by part."""

import pytest

from palettery.schemas.config.errors import (
    ConfigError,
    config_error,
    pointer,
    short_repr,
    unknown_key_message,
)
from palettery.schemas.problem import InvalidField


def test_pointers_escape_as_in_rfc_6901():
    assert pointer() == ""
    assert pointer("a/b", 0, "m~n") == "/a~1b/0/m~0n"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("global_confg", "did you mean 'global_config'?"),
        ("x", "allowed are global_config, other"),
        (7, "allowed are global_config, other"),
    ],
)
def test_unknown_key_has_a_hint(key, hint):
    assert unknown_key_message(key, ["global_config", "other"]) == f"unknown key {key!r}; {hint}"


def test_values_are_shown_in_short():
    assert short_repr("x" * 10_000) == "'" + "x" * 27 + "..." + "x" * 28 + "'"
    assert short_repr(1 << 128) == "an integer of 129 bits"
    assert short_repr([[[[[1]]]]]) == "[[[[...]]]]"


def test_all_errors_are_in_the_message():
    error = ConfigError(
        InvalidField(pointer="", detail="one"), InvalidField(pointer="/a", detail="two")
    )
    assert str(error) == "/: one; /a: two"
    assert config_error("three", "b", 1).errors == (InvalidField(pointer="/b/1", detail="three"),)
