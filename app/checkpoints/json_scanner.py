"""Bounded parsing of untrusted JSON: limited values, unique keys, large objects key by key."""

import json
import re
from collections.abc import Iterator

from palettery.app.checkpoints.quoting import quote_text
from palettery.app.errors import InvalidModel, TooLarge
from palettery.app.settings import Limits

VALUES_PER_TENSOR, SPARE_VALUES = 16, 10_000
"""Maximum number of values in a document: for each allowed tensor, plus a constant."""

_SPACE = re.compile(r"[ \t\n\r]*")


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a parsed JSON object whose keys are unique; an `object_pairs_hook`.

    Raises:
        ValueError: a key occurs twice; the message names it.
    """
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen = set[str]()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {quote_text(key)} occurs twice in one object")
            seen.add(key)
    return fields


def check_value_count(text: str, limits: Limits, what: str) -> None:
    """Check the number of values, which take far more memory than their text.

    Raises:
        TooLarge: over the limit, estimated by brackets, braces and commas.
    """
    count = sum(map(text.count, "[{,"))
    if count > SPARE_VALUES + VALUES_PER_TENSOR * limits.tensors:
        raise TooLarge(
            f"{what} holds up to {count:,} JSON values; {SPARE_VALUES:,} are allowed, and "
            f"{VALUES_PER_TENSOR} for each tensor, of which {limits.allowed('tensors')}"
        )


_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


class JsonScanner:
    """Incremental parser of a JSON text; consume the value of each key before the next key."""

    def __init__(self, text: str, what: str, limits: Limits) -> None:
        check_value_count(text, limits, what)
        self._text, self._what, self._position = text, what, 0

    def object_keys(self) -> Iterator[str]:
        """Enter an object and yield its keys.

        Raises:
            InvalidModel: the text is not an object, or a key occurs twice.
        """
        seen: set[str] = set()
        self._expect("{")
        if self._skip_space() == "}":
            self._position += 1
            return
        while True:
            key = self.read_string()
            if key in seen:
                raise InvalidModel(
                    f"{self._what} names {quote_text(key)} twice; write the file again"
                )
            seen.add(key)
            self._expect(":")
            yield key
            if self._skip_space() != ",":
                break
            self._position += 1
        self._expect("}")

    def read_string(self) -> str:
        """Consume a string."""
        if (character := self._skip_space()) != '"':
            raise self._error(
                f"{character!r} instead of a string" if character else "the end of the text"
            )
        try:
            text, self._position = _DECODER.raw_decode(self._text, self._position)
        except ValueError as error:
            raise self._error(f"an invalid string ({error})") from error
        return str(text)

    def read_value(self) -> object:
        """Consume any value; the keys of each object in it are unique.

        Raises:
            InvalidModel: invalid JSON, or nested too deep.
        """
        self._skip_space()
        try:
            value, self._position = _DECODER.raw_decode(self._text, self._position)
        except RecursionError as error:
            raise self._error("a value that is nested too deep") from error
        except ValueError as error:
            raise self._error(f"an invalid value ({error})") from error
        return value

    def expect_end(self) -> None:
        """Check that only white space is left."""
        if self._skip_space():
            raise self._error("more text after its closing brace")

    def _skip_space(self) -> str:
        """Return the next character without consuming it; empty at the end of the text."""
        space = _SPACE.match(self._text, self._position)
        assert space is not None  # noqa: S101 - the pattern matches the empty text
        self._position = space.end()
        return self._text[self._position : self._position + 1]

    def _expect(self, expected: str) -> None:
        character = self._skip_space()
        if character != expected:
            raise self._error(
                f"{character!r} instead of {expected!r}" if character else "the end of the text"
            )
        self._position += 1

    def _error(self, problem: str) -> InvalidModel:
        return InvalidModel(
            f"{self._what} is not valid JSON: {problem}, near character {self._position}; "
            "fetch or write the file again"
        )
