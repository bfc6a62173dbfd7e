"""Untrusted regular expressions, matched as `re.fullmatch` does but with a time limit."""

import math
import re
import time
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import regex

from palettery.app.errors import InvalidConfig
from palettery.schemas.problem import InvalidField

_CHUNK_TEXTS: Final = 64
"""Texts matched between two checks of the time limit."""
_MAX_CHUNK_STEPS: Final = 10**8
"""Maximum number of steps of a chunk in `re`, which has no timeout: about a second."""
_MAX_CHARACTERS: Final = 10_000
"""Maximum length of a pattern."""
_MAX_UNROLLED_ITEMS: Final = 100_000
"""Maximum number of items of a compiled pattern; `regex` copies the item before `{n}` n times."""
_REPEAT_COUNT = re.compile(r"\{(\d+)")
"""Lower bound in `{n}` or `{n,m}`."""
_REPEATED_GROUP = re.compile(r"\)\s*\{|#")
"""A group that braces repeat, or a comment that may hide one."""
_QUANTIFIER = re.compile(r"[*+?{]")
_LITERAL = re.compile(r"(?:(?:\w|\\\.)(?![*+?{]))+")
"""Word characters and escaped dots that are not repeated."""
_REPEATED_OR_SPECIAL_GROUP = re.compile(r"\)[*+?{]|\(\?")
"""A group that is repeated, or one with an extension such as a lookahead."""
_DIFFERENT_IN_REGEX = re.compile(r"(\\.)|(\{(?!\d+,?\d*\}|,\d*\}))|(\[:)", re.DOTALL)
"""An escape, which stays; a brace or `[:` that only `regex` treats as special."""


class Patterns:
    """All patterns of one config; they share one time limit."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = self._remaining_s = timeout_s
        self._compiled: dict[str, re.Pattern[str]] = {}

    def check(self, pattern: str, pointer: str) -> None:
        """Check that a pattern is short and compiles; `pointer` is its place in the config.

        Raises:
            InvalidConfig: says where and why.
        """
        if len(pattern) > _MAX_CHARACTERS:
            raise _invalid_pattern(
                pointer, f"{len(pattern):,} characters; {_MAX_CHARACTERS:,} are allowed"
            )
        try:
            self._compiled[pattern] = _compile_re(pattern)
        except (re.error, OverflowError, RecursionError, ValueError) as error:
            raise _invalid_pattern(
                pointer, f"{pattern!r} is no regular expression: {error}; escape . * + ? by a \\"
            ) from error

    def matching(self, pattern: str, texts: Sequence[str], pointer: str) -> set[str]:
        """Return the texts, of a sorted sequence, that the pattern matches in full.

        Patterns that provably need few steps go through `re`, six times as fast as the `regex`
        package with its timeout; all others go through `regex`.

        Raises:
            InvalidConfig: the time limit is exceeded.
        """
        is_fast = _is_fast(pattern, texts)
        started = time.thread_time()
        matches = (
            self._compiled_re(pattern).fullmatch
            if is_fast
            else self._regex_with_timeout(pattern, pointer)
        )
        self._remaining_s -= time.thread_time() - started
        if self._remaining_s <= 0:
            raise self._timeout_error(pattern, pointer)
        matched: set[str] = set()
        for chunk in _chunks(_with_prefix(texts, pattern), _CHUNK_TEXTS if is_fast else 1):
            started = time.thread_time()  # load of the machine must not make a good config fail
            try:
                matched.update([text for text in chunk if matches(text)])
            except TimeoutError as error:
                raise self._timeout_error(pattern, pointer) from error
            self._remaining_s -= time.thread_time() - started
            if self._remaining_s <= 0:
                raise self._timeout_error(pattern, pointer)
        return matched

    def _compiled_re(self, pattern: str) -> re.Pattern[str]:
        """Return a pattern as `check` compiled it: `re` caches only a few hundred patterns."""
        return self._compiled.get(pattern) or _compile_re(pattern)

    def _regex_with_timeout(self, pattern: str, pointer: str) -> Callable[[str], object]:
        if _max_unrolled_items(pattern) > _MAX_UNROLLED_ITEMS:
            raise _invalid_pattern(
                pointer,
                f"{pattern[:80]!r} repeats too much too often; write smaller numbers in {{}}",
            )
        try:
            with warnings.catch_warnings(action="ignore"):
                fullmatch = regex.compile(_to_regex_syntax(pattern), cache_pattern=False).fullmatch
        except (regex.error, OverflowError, RecursionError) as error:
            raise _invalid_pattern(
                pointer, f"{pattern!r} cannot be matched safely: {error}"
            ) from error
        return lambda text: fullmatch(text, timeout=self._remaining_s, concurrent=True)

    def _timeout_error(self, pattern: str, pointer: str) -> InvalidConfig:
        return _invalid_pattern(
            pointer,
            f"matching the config's patterns took over {self._timeout_s:g} s, the most allowed, "
            f"at the pattern {pattern!r}; avoid nested repetition such as (a+)+",
        )


def _compile_re(pattern: str) -> re.Pattern[str]:
    with warnings.catch_warnings(action="ignore"):
        return re.compile(pattern)


def _is_fast(pattern: str, texts: Sequence[str]) -> bool:
    """Return whether `re` is certain to match a chunk of these texts quickly.

    Without quantified groups every repetition has at most one start and end per position, so
    s quantifiers and a alternatives take at most length**s * 2**a steps.
    """
    if _REPEATED_OR_SPECIAL_GROUP.search(pattern) is not None:
        return False
    longest = max(map(len, texts), default=0) + 1
    quantifiers = len(_QUANTIFIER.findall(pattern))
    return bool(_CHUNK_TEXTS * longest**quantifiers << pattern.count("|") <= _MAX_CHUNK_STEPS)


def _max_unrolled_items(pattern: str) -> int:
    """Return an upper bound of the items that `regex` compiles; nested groups multiply counts."""
    counts = [max(1, int(count)) for count in _REPEAT_COUNT.findall(pattern)]
    nested = _REPEATED_GROUP.search(pattern) is not None
    return len(pattern) * (math.prod(counts) if nested else max(counts, default=1))


def _with_prefix(texts: Sequence[str], pattern: str) -> Sequence[str]:
    """Return the texts, of a sorted sequence, with the literal prefix of the pattern."""
    literal = _LITERAL.match(pattern)
    if literal is None or "|" in pattern:
        return texts
    prefix = literal[0].replace("\\", "")
    return texts[bisect_left(texts, prefix) : bisect_right(texts, f"{prefix}\U0010ffff")]


def _to_regex_syntax(pattern: str) -> str:
    """Return a pattern that means in `regex` what it means in `re`.

    Braces that are no repetition are literal in `re`, fuzzy matching in `regex`; `[:` is no
    beginning of a POSIX class in `re`.
    """
    return _DIFFERENT_IN_REGEX.sub(
        lambda match: match[1] or ("\\{" if match[2] else "[\\:"), pattern
    )


def _chunks(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))


def _invalid_pattern(pointer: str, detail: str) -> InvalidConfig:
    return InvalidConfig.of([InvalidField(pointer=pointer, detail=detail)])
