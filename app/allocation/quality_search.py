"""Search for the smallest artifact of a quality, by measuring few of those on a curve.

The curve has the least expected error of each size. It only proposes: a line through measured
losses, against expected errors and both in logarithms, says where the loss is what the goals allow.
Sizes that were measured bound the proposals from both sides, whatever the line says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import exp, inf, log, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from palettery.schemas.targets import CurvePoint

MOST_MEASURED: Final = 8
"""Most artifacts that are measured."""
TOLERANCE: Final = 0.002
"""Relative difference in size below which a smaller artifact is not sought."""
CLOSE: Final = 0.985
"""Share of the allowed loss from which on a smaller artifact is not sought."""
GROWTH: Final = 4.0
"""Growth of the least step, in size, with each further trial in a row on one side."""
APART: Final = 0.1
"""Least difference between the logarithms of the expected errors that a line goes through."""
LAST_CALLS: Final = 2
"""Trials before the last one from which on the widest choice is tried, if none has reached the
quality."""
SLOPES: Final = (0.25, 4.0)
"""Bounds of the slope of a line."""
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """An artifact that was measured."""

    limit_bytes: int
    """Size that was proposed; no choice of at most this size has a smaller expected error."""
    size_bytes: int
    """Size of the artifact."""
    error: float
    """Expected error."""
    excess: float
    """Measured loss as a multiple of what the goals allow."""
    is_reached: bool
    """Whether it has the quality."""


def next_limit(curve: Sequence[CurvePoint], trials: Sequence[Trial]) -> int | None:
    """Return the size to measure next; None if the search has ended.

    The curve is ascending in size, and so are qualities taken to be: above a size that has the
    quality, and below one that lacks it, nothing is tried.
    """
    least, most = curve[0].size_bytes, curve[-1].size_bytes
    below = max((each.limit_bytes for each in trials if not each.is_reached), default=None)
    above = min((each.size_bytes for each in trials if each.is_reached), default=None)
    left = MOST_MEASURED - len({each.size_bytes for each in trials})
    if not left or _is_over(trials, below or 0, least, above or most, is_reached=above is not None):
        return None
    if above is None and left <= LAST_CALLS:
        return most
    if not trials:
        return round(sqrt(least * most))
    size = _Line(curve, trials).size_at_goal()
    step = 1 + TOLERANCE / 2 * GROWTH ** (_run(trials) - 1)
    middle = sqrt((below or least) * (above or most))
    if trials[-1].is_reached:
        size = min(size, max((above or most) / step, middle))
    else:
        size = max(size, min((below or least) * step, middle))
    low = max(below * (1 + TOLERANCE / 2), below + 1) if below else least
    high = above / (1 + TOLERANCE / 2) if above else most
    return min(max(round(min(max(size, low), high)), least), most)


def best_trial(trials: Sequence[Trial]) -> Trial:
    """Return the smallest that has the quality; without one, the one that lacks least."""
    return min(
        trials,
        key=lambda each: (
            not each.is_reached,
            each.size_bytes if each.is_reached else each.excess,
        ),
    )


def _is_over(
    trials: Sequence[Trial], below: int, least: int, above: int, *, is_reached: bool
) -> bool:
    """Return whether no smaller size is left between those that bound it, or none is worth it."""
    if not is_reached:
        return below >= above
    return (
        above <= max(least, below * (1 + TOLERANCE), below + 1)
        or max(each.excess for each in trials if each.is_reached) > CLOSE
    )


def _run(trials: Sequence[Trial]) -> int:
    """Return how many of the last trials are on the same side of the quality."""
    sides = [each.is_reached for each in reversed(trials)]
    return len(list(takewhile(lambda side: side == sides[0], sides)))


class _Line:
    """Line through the trial nearest to the goal and the next that is apart; else of slope 1."""

    def __init__(self, curve: Sequence[CurvePoint], trials: Sequence[Trial]) -> None:
        positive = [point.error for point in curve if point.error > 0]
        self._floor = log(min(positive, default=1.0) / 10)
        self._errors: _Floats = np.array([self._log(point.error) for point in curve])
        self._sizes: _Floats = np.log([point.size_bytes for point in curve])
        points = [
            (self._log(each.error), log(each.excess)) for each in trials if 0 < each.excess < inf
        ]
        self._points = sorted(points, key=lambda point: abs(point[1]))

    def size_at_goal(self) -> float:
        """Return the size at which the line has the loss that the goals allow."""
        if not self._points:  # no loss was measured at all: the smallest is the next
            return 0.0
        error, excess = self._points[0]
        return exp(np.interp(excess / self._slope() - error, -self._errors, self._sizes))

    def _slope(self) -> float:
        error, excess = self._points[0]
        for other, more in self._points[1:]:
            if abs(other - error) >= APART:
                return min(max((more - excess) / (other - error), SLOPES[0]), SLOPES[1])
        return 1.0

    def _log(self, error: float) -> float:
        return log(error) if error > 0 else self._floor
