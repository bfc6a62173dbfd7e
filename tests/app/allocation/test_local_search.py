"""Moves from one choice to a better one."""

import numpy as np

from benchmarks.targets import instance
from palettery.app.allocation.local_search import Moves


def moves(items):
    return Moves([(np.arange(len(item.costs)), item.costs, item.weights) for item in items])


def total(items, options):
    pairs = list(zip(items, options, strict=True))
    return sum(item.costs[at] for item, at in pairs), sum(item.weights[at] for item, at in pairs)


def test_a_pair_makes_room_for_what_no_single_move_reaches():
    every = [
        (np.arange(2), np.array([10.0, 0.0]), np.array([0.0, 8.0])),
        (np.arange(2), np.array([3.0, 1.0]), np.array([0.0, 5.0])),
    ]
    start = np.array([0, 1])
    np.testing.assert_array_equal(Moves(every).improve(start, 8.0), [1, 0])
    np.testing.assert_array_equal(Moves(every).improve(start, 7.0), [0, 1])
    np.testing.assert_array_equal(Moves(every).improve(start, 13.0), [1, 1])


def test_choices_get_better_within_the_limit_and_no_move_is_left():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        items = instance(12, 6, rng)
        start = np.array([int(np.argmin(item.weights)) for item in items])
        least, most = (sum(f(item.weights) for item in items) for f in (min, max))
        limit = least + rng.uniform(0.2, 0.8) * (most - least)
        found = moves(items).improve(start, limit)
        cost, weight = total(items, found)
        assert weight <= limit
        assert cost < total(items, start)[0]
        for number, item in enumerate(items):
            for option in range(len(item.costs)):
                other = found.copy()
                other[number] = option
                better, heavier = total(items, other)
                assert heavier > limit or better >= cost * (1 - 1e-9)
