"""Search for a quality: proposals from measured pairs, on curves whose answer is known."""

import math

import numpy as np
import pytest

from palettery.app.allocation.quality_search import (
    MOST_MEASURED,
    TOLERANCE,
    Trial,
    best_trial,
    next_limit,
)
from palettery.schemas.targets import CurvePoint

LEAST, MOST = 3_000_000, 90_000_000
POWER = 5.0


def expected(size):
    """Expected error: nothing at the size of the model itself."""
    return (size / LEAST) ** -POWER if size < MOST else 0.0


CURVE = [
    CurvePoint(size_bytes=size, error=expected(size), exact=True)
    for size in (*np.geomspace(LEAST, MOST, 200).astype(int).tolist()[:-1], MOST)
]


def search(excess, step=1):
    """Run a search; `excess` is the measured loss by size, of artifacts of multiples of `step`."""
    trials = []
    while (limit := next_limit(CURVE, trials)) is not None:
        assert LEAST <= limit <= MOST
        size = max(limit - limit % step, LEAST)
        value = excess(size)
        trials.append(Trial(limit, size, expected(size), value, value <= 1))
        assert len(trials) < 50, "it never ends"
    return trials


def power_law(root, slope=1.0, noise=0.0, seed=0):
    """Loss as a power of the expected error, 1 at the size `root`, noisy but the same each time."""
    rng, known = np.random.default_rng(seed), {}

    def excess(size):
        if size not in known:
            factor = math.exp(rng.normal(0, noise))
            known[size] = (expected(size) / expected(root)) ** slope * factor
        return known[size]

    return excess


def test_the_first_is_in_the_middle_and_the_second_on_the_line_through_it():
    first = next_limit(CURVE, [])
    assert first == round(math.sqrt(LEAST * MOST))
    trial = Trial(first, first, expected(first), 0.25, is_reached=True)
    root = first * 0.25 ** (1 / POWER)  # where the expected error is four times as large
    assert next_limit(CURVE, [trial]) == pytest.approx(root, rel=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_smooth_losses_end_close_to_the_smallest(seed):
    rng = np.random.default_rng(seed)
    root = math.exp(rng.uniform(math.log(LEAST * 1.1), math.log(MOST * 0.8)))
    trials = search(power_law(root, rng.uniform(0.6, 1.4)))
    assert len(trials) <= MOST_MEASURED
    assert root <= best_trial(trials).size_bytes <= root * 1.02


@pytest.mark.parametrize("seed", range(20))
def test_noisy_losses_still_give_one_that_measured_well(seed):
    rng = np.random.default_rng(seed)
    root = math.exp(rng.uniform(math.log(LEAST * 1.1), math.log(MOST * 0.8)))
    trials = search(power_law(root, 1.0, 0.1, seed), step=10_000)
    assert len({trial.size_bytes for trial in trials}) <= MOST_MEASURED
    best = best_trial(trials)
    assert best.is_reached
    assert best.size_bytes <= 1.1 * root


def test_nothing_is_tried_above_what_has_the_quality_or_below_what_lacks_it():
    trials = search(power_law(9_000_000, 1.3, 0.1, 3))
    for at, trial in enumerate(trials):
        before = trials[:at]
        assert all(trial.limit_bytes < each.size_bytes for each in before if each.is_reached)
        assert all(trial.limit_bytes > each.limit_bytes for each in before if not each.is_reached)


def test_a_quality_that_the_smallest_has_ends_with_it():
    trials = search(lambda _: 0.0)
    assert trials[-1].size_bytes == LEAST
    assert len(trials) == 2
    assert best_trial(trials) is trials[-1]


def test_a_quality_that_the_largest_misses_ends_with_the_one_that_lacks_least():
    trials = search(lambda size: 2 + expected(size))
    assert trials[-1].size_bytes == MOST
    assert best_trial(trials) is trials[-1]
    assert next_limit(CURVE, trials) is None


def test_a_quality_of_the_model_itself_is_found_before_the_last():
    trials = search(lambda size: 0.0 if size == MOST else 3.0)
    assert best_trial(trials).size_bytes == MOST
    assert best_trial(trials).is_reached


def test_one_artifact_for_many_limits_is_not_a_reason_to_go_on():
    trials = search(power_law(9_000_000), step=4_000_000)
    assert best_trial(trials).size_bytes == 12_000_000
    sizes = {trial.size_bytes for trial in trials}
    assert 8_000_000 in sizes
    assert len(sizes) <= MOST_MEASURED


def test_a_quality_barely_kept_is_not_made_smaller():
    trial = Trial(9_000_000, 9_000_000, expected(9_000_000), 0.99, is_reached=True)
    assert next_limit(CURVE, [trial]) is None
    below = Trial(8_990_000, 8_990_000, expected(8_990_000), 1.5, is_reached=False)
    good = Trial(9_000_000, 9_000_000, expected(9_000_000), 0.5, is_reached=True)
    assert 1 + TOLERANCE > 9_000_000 / 8_990_000
    assert next_limit(CURVE, [below, good]) is None
