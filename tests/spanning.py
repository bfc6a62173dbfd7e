"""Combinations of parameters: few in the fast tests, more in the heavy ones, all in long runs."""

import random
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations, product
from typing import Any

import pytest

from tests.examples import examples


def pairwise(*axes: Collection[Any]) -> set[tuple[int, ...]]:
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


def spanning(*axes: Collection[Any]) -> list[Any]:
    """A pairwise selection of combinations, and as many others, which are heavy, as parameters."""
    return _params(axes, pairwise(*axes))


def every_value(*axes: Collection[Any]) -> list[Any]:
    """A selection of combinations with each value, and as many others, which are heavy."""
    longest = max(len(axis) for axis in axes)
    return _params(axes, {tuple(n % len(axis) for axis in axes) for n in range(longest)})


def _params(axes: Sequence[Collection[Any]], chosen: set[tuple[int, ...]]) -> list[Any]:
    values = [list(axis) for axis in axes]
    cases = list(product(*(range(len(axis)) for axis in axes)))
    others = [case for case in cases if case not in chosen]
    heavy = random.Random(0).sample(others, min(len(others), examples(len(chosen))))  # noqa: S311
    return [
        pytest.param(
            *(axis[at] for axis, at in zip(values, case, strict=True)),
            marks=() if case in chosen else pytest.mark.heavy,
        )
        for case in cases
        if case in chosen or case in heavy
    ]


def first_fast(cases: Iterable[Any], count: int) -> list[Any]:
    """Every case, as parameters; those after the first `count` are heavy."""
    return [
        pytest.param(case, marks=() if number < count else pytest.mark.heavy)
        for number, case in enumerate(cases)
    ]
