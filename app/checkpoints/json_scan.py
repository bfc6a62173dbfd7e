"""A JSON object read member by member, so that a hostile one is refused before it is built."""

import json
import re
from collections.abc import Iterator

from app.errors import InvalidModel

FLAT_CHARACTERS = 1 << 14
"""Of one member that holds no further object."""

_SPACE = re.compile(r"[ \t\n\r]*")
_FLAT = re.compile(rf"\{{[^{{}}]{{0,{FLAT_CHARACTERS}}}\}}")
_DECODER = json.JSONDecoder()


class JsonScanner:
    """Walks a JSON text; each value behind a key of `members` is consumed before the next key."""

    def __init__(self, text: str, what: str) -> None:
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
                raise InvalidModel(f"{self._what} names {shown(key)} twice; write the file again")
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

    def flat(self) -> dict[str, object]:
        """Consume a small object that holds no further object."""
        self._next()
        match = _FLAT.match(self._text, self._at)
        if match is None:
            raise self._broken("a member that is not a small flat object")
        self._at = match.end()
        try:
            found: dict[str, object] = json.loads(match[0], object_pairs_hook=self._unique)
        except (ValueError, RecursionError) as error:
            raise self._broken(f"a member that is not sound JSON ({error})") from error
        return found

    def end(self) -> None:
        """Assert that only white space is left."""
        if self._next():
            raise self._broken("more text behind its closing brace")

    def _unique(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key occurs twice")
        return found

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


def shown(name: str) -> str:
    """A stranger's name, fit for a message: control characters escaped, cut when long."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")
