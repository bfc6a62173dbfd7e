"""Exact search where few different weights occur, as in models of many layers of equal shapes.

Branch and bound cannot tell such items apart, and takes minutes for what has few distinct sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_SUMS, MAX_OF_STAGE = 3_000_000, 20_000
"""Sums over all items, and with one more item, above which the search stops: about a second."""
Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


@dataclass(frozen=True)
class Stage:
    """Sums of the options of some items that no other sum beats in cost and weight."""

    weights: Floats
    extra: Floats
    """Cost above the least at the price for weight."""
    before: Integers
    """Position of each sum without its last item, in the stage before."""
    option: Integers
    """Option of the last item."""


def search_sums(
    items: Sequence[tuple[Floats, Floats]], limit: float, price: float, window: float
) -> tuple[list[int] | None, bool]:
    """Return the best options whose cost exceeds the bound at a price by at most `window`.

    Takes costs and weights of each item's options. The options are None if there are none; the
    second value is false if there were too many sums to look at.
    """
    extras = [costs + price * weights for costs, weights in items]
    extras = [extra - extra.min() for extra in extras]
    order = sorted(range(len(items)), key=lambda at: float(np.partition(extras[at], 1)[1]))
    zero, none = np.zeros(1), np.zeros(1, dtype=np.intp)
    stages, looked_at = [Stage(zero, zero, none, none)], 0
    least, most = (sum(float(f(weights)) for _, weights in items) for f in (np.min, np.max))
    for at in order:
        weights = items[at][1]
        least, most = least - float(weights.min()), most - float(weights.max())
        rest = limit - most, limit - least
        stages.append(_next_stage(stages[-1], weights, extras[at], price, window, rest))
        looked_at += len(stages[-1].weights)
        if looked_at > MAX_SUMS or len(stages[-1].weights) > MAX_OF_STAGE:
            return None, False
    left = limit - stages[-1].weights
    total = np.where(left >= 0, stages[-1].extra + price * left, np.inf)
    if not len(total) or not total.min() <= window:
        return None, True
    place, options = int(np.argmin(total)), [0] * len(items)
    for at, stage in zip(reversed(order), reversed(stages), strict=False):
        options[at] = int(stage.option[place])
        place = int(stage.before[place])
    return options, True


def _next_stage(
    stage: Stage,
    weights: Floats,
    extra: Floats,
    price: float,
    window: float,
    rest: tuple[float, float],
) -> Stage:
    """Return the sums with one more item.

    `rest` is what is left of the limit if all later items have their heaviest option, and if they
    have their lightest.
    """
    all_weights = (stage.weights[:, None] + weights).ravel()
    all_extra = (stage.extra[:, None] + extra).ravel()
    unused = np.maximum(rest[0] - all_weights, 0)  # weight that no later option can use
    able = np.flatnonzero((all_extra + price * unused <= window) & (all_weights <= rest[1]))
    cost = all_extra[able] - price * all_weights[able]
    able = able[np.lexsort((cost, all_weights[able]))]
    cost = all_extra[able] - price * all_weights[able]
    able = able[np.concatenate(([True], cost[1:] < np.minimum.accumulate(cost)[:-1]))[: len(able)]]
    before, option = np.divmod(able, len(weights))
    return Stage(all_weights[able], all_extra[able], before, option)
