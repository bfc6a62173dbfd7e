"""Suggestions for config keys that matched nothing."""

import difflib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import cached_property
from itertools import islice
from typing import Final

_MAX_SUGGESTIONS: Final = 3
MAX_SEARCHES: Final = 1_000
"""Searches for similar names in one plan."""
_COMPARED: Final = 300
"""Names that a key is compared with; a large model has too many to try all."""


def close_types(key: str, types: Iterable[str]) -> tuple[str, ...]:
    """Return the model's module types of the same class name, as for `torch.nn.Linear`."""
    types = sorted(types)
    last = key.rpartition(".")[2].lower()
    same = [each for each in types if each.rpartition(".")[2].lower() == last]
    return tuple(same[:_MAX_SUGGESTIONS]) or close_names(key, types)


def close_op_types(key: str, types: Collection[str]) -> tuple[str, ...]:
    """Return op types that `aten.linear.default`, `torch.nn.Linear` or `conv*` may mean."""
    parts = {part.lower().strip("*_") for part in key.replace("::", ".").split(".")} - {""}
    named = [each for each in types if each in parts or each.replace("_", "") in parts]
    begun = [each for each in types if any(each.startswith(part) for part in parts)]
    return tuple((named or begun)[:_MAX_SUGGESTIONS]) or close_names(key.lower(), types)


def close_names(key: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names most similar to the key, by edit distance."""
    return tuple(difflib.get_close_matches(key[:200], names, n=_MAX_SUGGESTIONS, cutoff=0.75))


class DottedNames:
    """Names of modules or ops, indexed for fast search in large models."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(name for name in names if name)
        self._left = MAX_SEARCHES

    def close(self, pattern: str) -> tuple[str, ...]:
        """Return names that nearly match a pattern: without its head or tail, or with a typo.

        Searches take time: after `MAX_SEARCHES` of them nothing is suggested.
        """
        if not self._left:
            return ()
        self._left -= 1
        plain = pattern.replace("\\.", ".").strip("^$")
        stem = plain.removesuffix("*").removesuffix(".").removesuffix(".")
        if not stem:
            return ()
        tails = [stem[at + 1 :] for at, letter in enumerate(stem) if letter == "."]
        heads = [stem[:at] for at, letter in enumerate(stem) if letter == "."]
        likely = islice(self._by_last[_last(stem)], _COMPARED)
        longer = [name for name in likely if name.endswith(f".{stem}")]
        nearly = [name for name in (stem, *tails, *reversed(heads)) if name in self._names]
        inside = self._first_inside(stem)
        return tuple([*nearly[:1], *longer, *inside][:_MAX_SUGGESTIONS]) or close_names(
            stem, self._like_long(stem)
        )

    def _first_inside(self, stem: str) -> list[str]:
        at = bisect_left(self._sorted, f"{stem}.")
        return [name for name in self._sorted[at : at + 1] if name.startswith(f"{stem}.")]

    def _like_long(self, stem: str) -> list[str]:
        """Return the names whose lengths are nearest."""
        by_length = self._by_length
        at = bisect_left(by_length, len(stem), key=len)
        return by_length[max(0, at - _COMPARED // 2) : at + _COMPARED // 2]

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._names)

    @cached_property
    def _by_length(self) -> list[str]:
        return sorted(self._names, key=len)

    @cached_property
    def _by_last(self) -> defaultdict[str, list[str]]:
        by_last: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._names:
            by_last[_last(name)].append(name)
        return by_last


def _last(name: str) -> str:
    return name.rpartition(".")[2]
