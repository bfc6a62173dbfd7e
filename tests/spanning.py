"""Combinations of parameters: few in the fast tests, all of them in the heavy ones."""

from collections.abc import Iterable, Sequence
from itertools import combinations, product
from typing import Any

import pytest


def pairwise(*axes: Sequence[Any]) -> set[tuple[int, ...]]:
    """Positions of combinations in which any two values of two axes occur together."""

    def pairs_of(case: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(combinations(enumerate(case), 2))

    cases = list(product(*(range(len(axis)) for axis in axes)))
    missing = {pair for case in cases for pair in pairs_of(case)}
    chosen = set()
    while missing:
        best = max(cases, key=lambda case: len(pairs_of(case) & missing))
        missing -= pairs_of(best)
        chosen.add(best)
    return chosen


def spanning(*axes: Sequence[Any]) -> list[Any]:
    """Every combination, as parameters; those beyond a pairwise selection are heavy."""
    return _params(axes, pairwise(*axes))


def every_value(*axes: Sequence[Any]) -> list[Any]:
    """Every combination, as parameters; those beyond one selection with each value are heavy."""
    longest = max(len(axis) for axis in axes)
    return _params(axes, {tuple(n % len(axis) for axis in axes) for n in range(longest)})


def _params(axes: Sequence[Sequence[Any]], chosen: set[tuple[int, ...]]) -> list[Any]:
    return [
        pytest.param(*values, marks=() if positions in chosen else pytest.mark.heavy)
        for positions, values in zip(
            product(*(range(len(axis)) for axis in axes)), product(*axes), strict=True
        )
    ]


def first_fast(cases: Iterable[Any], count: int) -> list[Any]:
    """Every case, as parameters; those after the first `count` are heavy."""
    return [
        pytest.param(case, marks=() if number < count else pytest.mark.heavy)
        for number, case in enumerate(cases)
    ]
