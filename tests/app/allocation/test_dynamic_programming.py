"""Sums of weights against all combinations."""

import numpy as np

from palettery.app.allocation import dynamic_programming
from palettery.app.allocation.dynamic_programming import search_sums

PRICE = 0.5


def draw(rng):
    """Costs and weights of a few items with few different weights."""
    return [
        (rng.uniform(0, 5, 3), rng.integers(0, 6, 3).astype(np.float64))
        for _ in range(int(rng.integers(1, 6)))
    ]


def combinations(items):
    weights, costs = np.zeros(1), np.zeros(1)
    for cost, weight in items:
        weights, costs = (weights[:, None] + weight).ravel(), (costs[:, None] + cost).ravel()
    return weights, costs


def test_the_best_options_within_the_window_or_none():
    outcomes = set()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        items, window = draw(rng), rng.uniform(0, 4)
        weights, costs = combinations(items)
        limit = float(rng.integers(weights.min(), weights.max() + 1))
        bound = sum((cost + PRICE * weight).min() for cost, weight in items) - PRICE * limit
        best = costs[weights <= limit].min()
        options, is_complete = search_sums(items, limit, PRICE, window)
        assert is_complete
        outcomes.add(options is None)
        if options is None:
            assert best > bound + window - 1e-9
            continue
        chosen = list(zip(items, options, strict=True))
        assert sum(weight[at] for (_, weight), at in chosen) <= limit
        np.testing.assert_allclose(sum(cost[at] for (cost, _), at in chosen), best)
    assert outcomes == {True, False}


def test_too_many_sums_are_given_up(monkeypatch):
    monkeypatch.setattr(dynamic_programming, "MAX_SUMS", 10)
    items = [(np.array([0.0, 1.0]), np.array([2.0**at, 0.0])) for at in range(8)]
    assert search_sums(items, 100.0, 0.01, 10.0) == (None, False)
    monkeypatch.setattr(dynamic_programming, "MAX_SUMS", 1000)
    assert search_sums(items, 100.0, 0.01, 10.0)[1]
    monkeypatch.setattr(dynamic_programming, "MAX_OF_STAGE", 5)
    assert search_sums(items, 100.0, 0.01, 10.0) == (None, False)
