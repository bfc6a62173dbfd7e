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
"""Maximum number of searches for similar names in one plan."""
_MAX_COMPARED: Final = 300
"""Maximum number of names that a key is compared with; a large model has too many."""


def similar_types(key: str, types: Iterable[str]) -> tuple[str, ...]:
    """Return the model's module types of the same class name, as for `torch.nn.Linear`."""
    types = sorted(types)
    last = key.rpartition(".")[2].lower()
    same_class = [type_name for type_name in types if type_name.rpartition(".")[2].lower() == last]
    return tuple(same_class[:_MAX_SUGGESTIONS]) or similar_names(key, types)


def similar_op_types(key: str, types: Collection[str]) -> tuple[str, ...]:
    """Return op types that `aten.linear.default`, `torch.nn.Linear` or `conv*` may mean."""
    parts = {part.lower().strip("*_") for part in key.replace("::", ".").split(".")} - {""}
    equal = [op_type for op_type in types if op_type in parts or op_type.replace("_", "") in parts]
    prefixed = [op_type for op_type in types if any(op_type.startswith(part) for part in parts)]
    return tuple((equal or prefixed)[:_MAX_SUGGESTIONS]) or similar_names(key.lower(), types)


def similar_names(key: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names most similar to the key, by edit distance."""
    return tuple(difflib.get_close_matches(key[:200], names, n=_MAX_SUGGESTIONS, cutoff=0.75))


class DottedNames:
    """Names of modules or ops, indexed for fast search in large models."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(name for name in names if name)
        self._remaining_searches = MAX_SEARCHES

    def similar(self, pattern: str) -> tuple[str, ...]:
        """Return names that nearly match a pattern: without its head or tail, or with a typo.

        Searches take time: after `MAX_SEARCHES` of them nothing is suggested.
        """
        if not self._remaining_searches:
            return ()
        self._remaining_searches -= 1
        text = pattern.replace("\\.", ".").strip("^$")
        stem = text.removesuffix("*").removesuffix(".").removesuffix(".")
        if not stem:
            return ()
        tails = [stem[at + 1 :] for at, letter in enumerate(stem) if letter == "."]
        heads = [stem[:at] for at, letter in enumerate(stem) if letter == "."]
        candidates = islice(self._by_last_component[_last_component(stem)], _MAX_COMPARED)
        extended = [name for name in candidates if name.endswith(f".{stem}")]
        shortened = [name for name in (stem, *tails, *reversed(heads)) if name in self._names]
        descendants = self._first_descendant(stem)
        return tuple([*shortened[:1], *extended, *descendants][:_MAX_SUGGESTIONS]) or similar_names(
            stem, self._of_similar_length(stem)
        )

    def _first_descendant(self, stem: str) -> list[str]:
        at = bisect_left(self._sorted, f"{stem}.")
        return [name for name in self._sorted[at : at + 1] if name.startswith(f"{stem}.")]

    def _of_similar_length(self, stem: str) -> list[str]:
        """Return the names whose lengths are nearest."""
        by_length = self._by_length
        at = bisect_left(by_length, len(stem), key=len)
        return by_length[max(0, at - _MAX_COMPARED // 2) : at + _MAX_COMPARED // 2]

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._names)

    @cached_property
    def _by_length(self) -> list[str]:
        return sorted(self._names, key=len)

    @cached_property
    def _by_last_component(self) -> defaultdict[str, list[str]]:
        by_last: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._names:
            by_last[_last_component(name)].append(name)
        return by_last


def _last_component(name: str) -> str:
    return name.rpartition(".")[2]
