"""What a config key that matched nothing was probably meant to be."""

import difflib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import cached_property
from itertools import islice
from typing import Final

_MOST: Final = 3
SEARCHES: Final = 1_000
"""For names like a key, in one plan."""
_COMPARED: Final = 300
"""Names that a key is compared with; a large model has too many for all."""


def close_types(key: str, types: Iterable[str]) -> tuple[str, ...]:
    """Module types of the model with the same class name, such as that of `torch.nn.Linear`."""
    types = sorted(types)
    last = key.rpartition(".")[2].lower()
    same = [found for found in types if found.rpartition(".")[2].lower() == last]
    return tuple(same[:_MOST]) or close_names(key, types)


def close_op_types(key: str, types: Collection[str]) -> tuple[str, ...]:
    """Op types that `aten.linear.default`, `torch.nn.Linear` or `conv*` may stand for."""
    parts = {part.lower().strip("*_") for part in key.replace("::", ".").split(".")} - {""}
    named = [found for found in types if found in parts or found.replace("_", "") in parts]
    begun = [found for found in types if any(found.startswith(part) for part in parts)]
    return tuple((named or begun)[:_MOST]) or close_names(key.lower(), types)


def close_names(key: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names most like the key, letter by letter."""
    return tuple(difflib.get_close_matches(key[:200], names, n=_MOST, cutoff=0.75))


class DottedNames:
    """Names of modules or ops, indexed so that a large model's can be searched many times."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(name for name in names if name)
        self._left = SEARCHES

    def close(self, pattern: str) -> tuple[str, ...]:
        """Names that a pattern nearly spells: without its head or tail, or with a typo.

        None from the search behind `SEARCHES` on: they take time, and nobody reads so many.
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
        return tuple([*nearly[:1], *longer, *inside][:_MOST]) or close_names(
            stem, self._like_long(stem)
        )

    def _first_inside(self, stem: str) -> list[str]:
        at = bisect_left(self._sorted, f"{stem}.")
        return [name for name in self._sorted[at : at + 1] if name.startswith(f"{stem}.")]

    def _like_long(self, stem: str) -> list[str]:
        """The names whose lengths are nearest."""
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
        found: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._names:
            found[_last(name)].append(name)
        return found


def _last(name: str) -> str:
    return name.rpartition(".")[2]
