"""JSON of strangers: within bounds, no key twice, and read member by member where it is large."""

import json
import re
from collections.abc import Iterator

from palettery.app.errors import InvalidModel, TooLarge
from palettery.app.settings import Limits

VALUES_PER_TENSOR, SPARE_VALUES = 16, 10_000
"""Most values of a JSON document, for each tensor that a checkpoint may have, and beside those."""

_SPACE = re.compile(r"[ \t\n\r]*")


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object that a JSON parser found.

    Raises:
        ValueError: it has a key twice, which is named.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set[str]()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {quote_text(key)} occurs twice in one object")
            seen.add(key)
    return found


def check_value_count(text: str, limits: Limits, what: str) -> None:
    """Refuse JSON of very many values, which take far more memory than their text.

    Raises:
        TooLarge: over the limit, as far as brackets, braces and commas tell.
    """
    count, most = sum(map(text.count, "[{,")), SPARE_VALUES + VALUES_PER_TENSOR * limits.tensors
    if count > most:
        raise TooLarge(
            f"{what} holds up to {count:,} JSON values; {SPARE_VALUES:,} are allowed, and "
            f"{VALUES_PER_TENSOR} for each tensor, of which {limits.allowed('tensors')}"
        )


_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


class JsonScanner:
    """Walks a JSON text; each value behind a key of `members` is consumed before the next key."""

    def __init__(self, text: str, what: str, limits: Limits) -> None:
        check_value_count(text, limits, what)
        self._text, self._what, self._at = text, what, 0

    def members(self) -> Iterator[str]:
        """Enter an object and yield its keys, each of which occurs once.

        Raises:
            InvalidModel: the text is not an object, or a key occurs twice.
        """
        seen: set[str] = set()
        self._take("{")
        if self._next() == "}":
            self._at += 1
            return
        while True:
            key = self.string()
            if key in seen:
                raise InvalidModel(
                    f"{self._what} names {quote_text(key)} twice; write the file again"
                )
            seen.add(key)
            self._take(":")
            yield key
            if self._next() != ",":
                break
            self._at += 1
        self._take("}")

    def string(self) -> str:
        """Consume a string."""
        if (got := self._next()) != '"':
            raise self._broken(f"{got!r} where a string must stand" if got else "a sudden end")
        try:
            found, self._at = _DECODER.raw_decode(self._text, self._at)
        except ValueError as error:
            raise self._broken(f"a string that does not end well ({error})") from error
        return str(found)

    def value(self) -> object:
        """Consume any value; no object in it has a key twice.

        Raises:
            InvalidModel: no sound JSON, or nested too deep.
        """
        self._next()
        try:
            found, self._at = _DECODER.raw_decode(self._text, self._at)
        except RecursionError as error:
            raise self._broken("a member that is nested too deep") from error
        except ValueError as error:
            raise self._broken(f"a member that is not sound JSON ({error})") from error
        return found

    def end(self) -> None:
        """Assert that only white space is left."""
        if self._next():
            raise self._broken("more text behind its closing brace")

    def _next(self) -> str:
        space = _SPACE.match(self._text, self._at)
        assert space is not None  # noqa: S101 - the pattern matches the empty text
        self._at = space.end()
        return self._text[self._at : self._at + 1]

    def _take(self, wanted: str) -> None:
        got = self._next()
        if got != wanted:
            raise self._broken(f"{got!r} where {wanted!r} must stand" if got else "a sudden end")
        self._at += 1

    def _broken(self, found: str) -> InvalidModel:
        return InvalidModel(
            f"{self._what} is not the JSON it must be: {found}, near character {self._at}; "
            "fetch or write the file again"
        )


def quote_text(name: str) -> str:
    """A stranger's name, fit for a message: control characters escaped, cut when long."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


def quote_json(value: object) -> str:
    """A value of JSON, fit for a message however large it is, or deep."""
    if isinstance(value, dict):
        return "an object of " + (
            ", ".join(quote_text(str(key)) for key in [*value][:3]) or "nothing"
        )
    return "a list" if isinstance(value, list) else quote_text(str(value)[:100])
