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

_CHUNK: Final = 64
"""Texts matched between two checks of the time limit."""
_CHUNK_STEPS: Final = 10**8
"""Most steps that a chunk may take in `re`, which cannot be stopped: about a second."""
_LONGEST: Final = 10_000
"""Most characters of a pattern."""
_UNROLLED: Final = 100_000
"""Most items of a compiled pattern; `regex` copies the item before `{n}` n times."""
_AT_LEAST = re.compile(r"\{(\d+)")
_REPEATED_GROUP = re.compile(r"\)\s*\{|#")
"""A group that braces repeat, or a comment that may hide one."""
_QUANTIFIER = re.compile(r"[*+?{]")
_LITERAL = re.compile(r"(?:(?:\w|\\\.)(?![*+?{]))+")
"""Word characters and escaped dots that are not repeated."""
_NESTED = re.compile(r"\)[*+?{]|\(\?")
_NOT_IN_RE = re.compile(r"(\\.)|(\{(?!\d+,?\d*\}|,\d*\}))|(\[:)", re.DOTALL)


class Patterns:
    """All patterns of one config; they share one time limit."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = self._left_s = timeout_s
        self._compiled: dict[str, re.Pattern[str]] = {}

    def check(self, pattern: str, pointer: str) -> None:
        """Check that a pattern is short and compiles; `pointer` is its place in the config.

        Raises:
            InvalidConfig: says where and why.
        """
        if len(pattern) > _LONGEST:
            raise _invalid(pointer, f"{len(pattern):,} characters; {_LONGEST:,} are allowed")
        try:
            self._compiled[pattern] = _compile_quick(pattern)
        except (re.error, OverflowError, RecursionError, ValueError) as error:
            raise _invalid(
                pointer, f"{pattern!r} is no regular expression: {error}; escape . * + ? by a \\"
            ) from error

    def matching(self, pattern: str, texts: Sequence[str], pointer: str) -> set[str]:
        """Return the texts, of a sorted sequence, that the pattern matches in full.

        Patterns that provably need few steps go through `re`, six times as fast as the `regex`
        package with its timeout; all others go through `regex`.

        Raises:
            InvalidConfig: the time limit is exceeded.
        """
        quick = _is_quick(pattern, texts)
        compiling = time.thread_time()
        matches = self._quick(pattern).fullmatch if quick else self._stoppable(pattern, pointer)
        self._left_s -= time.thread_time() - compiling
        if self._left_s <= 0:
            raise self._too_slow(pattern, pointer)
        matched: set[str] = set()
        for chunk in _chunks(_with_prefix(texts, pattern), _CHUNK if quick else 1):
            started = time.thread_time()  # load of the machine must not make a good config fail
            try:
                matched.update([text for text in chunk if matches(text)])
            except TimeoutError as error:
                raise self._too_slow(pattern, pointer) from error
            self._left_s -= time.thread_time() - started
            if self._left_s <= 0:
                raise self._too_slow(pattern, pointer)
        return matched

    def _quick(self, pattern: str) -> re.Pattern[str]:
        """Return a pattern as `check` compiled it: `re` caches only a few hundred patterns."""
        return self._compiled.get(pattern) or _compile_quick(pattern)

    def _stoppable(self, pattern: str, pointer: str) -> Callable[[str], object]:
        if _unrolled(pattern) > _UNROLLED:
            raise _invalid(
                pointer,
                f"{pattern[:80]!r} repeats too much too often; write smaller numbers in {{}}",
            )
        try:
            with warnings.catch_warnings(action="ignore"):
                fullmatch = regex.compile(_as_in_re(pattern), cache_pattern=False).fullmatch
        except (regex.error, OverflowError, RecursionError) as error:
            raise _invalid(pointer, f"{pattern!r} cannot be matched safely: {error}") from error
        return lambda text: fullmatch(text, timeout=self._left_s, concurrent=True)

    def _too_slow(self, pattern: str, pointer: str) -> InvalidConfig:
        return _invalid(
            pointer,
            f"matching the config's patterns took over {self._timeout_s:g} s, the most allowed, "
            f"at the pattern {pattern!r}; avoid nested repetition such as (a+)+",
        )


def _compile_quick(pattern: str) -> re.Pattern[str]:
    with warnings.catch_warnings(action="ignore"):
        return re.compile(pattern)


def _is_quick(pattern: str, texts: Sequence[str]) -> bool:
    """Return whether `re` is certain to match a chunk of these texts quickly.

    Without quantified groups every repetition has at most one start and end per position, so
    s quantifiers and a alternatives take at most length**s * 2**a steps.
    """
    if _NESTED.search(pattern) is not None:
        return False
    longest = max(map(len, texts), default=0) + 1
    quantifiers = len(_QUANTIFIER.findall(pattern))
    return bool(_CHUNK * longest**quantifiers << pattern.count("|") <= _CHUNK_STEPS)


def _unrolled(pattern: str) -> int:
    """Return an upper bound of the items that `regex` compiles; nested groups multiply counts."""
    counts = [max(1, int(count)) for count in _AT_LEAST.findall(pattern)]
    nested = _REPEATED_GROUP.search(pattern) is not None
    return len(pattern) * (math.prod(counts) if nested else max(counts, default=1))


def _with_prefix(texts: Sequence[str], pattern: str) -> Sequence[str]:
    """Return the texts, of a sorted sequence, with the literal prefix of the pattern."""
    literal = _LITERAL.match(pattern)
    if literal is None or "|" in pattern:
        return texts
    prefix = literal[0].replace("\\", "")
    return texts[bisect_left(texts, prefix) : bisect_right(texts, f"{prefix}\U0010ffff")]


def _as_in_re(pattern: str) -> str:
    """Return a pattern that means in `regex` what it means in `re`.

    Braces that are no repetition are literal in `re`, fuzzy matching in `regex`; `[:` is no
    beginning of a POSIX class in `re`.
    """
    return _NOT_IN_RE.sub(lambda match: match[1] or ("\\{" if match[2] else "[\\:"), pattern)


def _chunks(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))


def _invalid(pointer: str, detail: str) -> InvalidConfig:
    return InvalidConfig.of([InvalidField(pointer=pointer, detail=detail)])
