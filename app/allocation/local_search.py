"""Better choices by single moves and pairs of moves, before the exact search."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

ROUNDS: Final = 60
"""Most pairs of moves that are made."""
Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


class Moves:
    """All options of all items, flat: each is a move from the option that its item has."""

    def __init__(self, items: Sequence[tuple[Integers, Floats, Floats]]) -> None:
        """Take positions, costs and weights of each item's options."""
        self._owner = np.repeat(np.arange(len(items)), [len(each[0]) for each in items])
        self._option, self._cost, self._weight = (
            np.concatenate([each[part] for each in items]) for part in range(3)
        )
        self._first = np.searchsorted(self._owner, np.arange(len(items)))
        self._items = items

    def improve(self, options: Integers, limit: float) -> Integers:
        """Return options after the best single move or pair of moves, repeated while it helps.

        A pair may be a move that adds weight and one that makes room for it. For each move the
        best partner is found by bisection: of all moves of at most the weight that is left, sorted
        by weight, the one that saves most.
        """
        at = self._first + [
            int(np.flatnonzero(each[0] == option)[0])
            for each, option in zip(self._items, options, strict=True)
        ]
        for _ in range(ROUNDS):
            left = limit - self._weight[at].sum()
            added = self._weight - self._weight[at][self._owner]
            saved = self._cost[at][self._owner] - self._cost
            moves = self._best_pair(added, saved, left)
            if not moves:
                break
            for move in moves:
                at[self._owner[move]] = move
        best: Integers = self._option[at]
        return best

    def _best_pair(self, added: Floats, saved: Floats, left: float) -> list[int]:
        """Return the two moves that save most together; one if it saves as much, none if none."""
        order = np.argsort(added, kind="stable")
        sorted_added, sorted_saved = added[order], saved[order]
        most = np.maximum.accumulate(sorted_saved)
        new = np.concatenate(([True], most[1:] > most[:-1]))
        partner = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
        place = np.searchsorted(sorted_added, left - added, side="right") - 1
        other = partner[np.maximum(place, 0)]
        able = (place >= 0) & (self._owner[other] != self._owner)
        total = np.where(able, saved + saved[other], -np.inf)
        alone = np.where(added <= left, saved, -np.inf)
        pair, single = int(np.argmax(total)), int(np.argmax(alone))
        best = max(total[pair], alone[single])
        if not best > 1e-12 * np.abs(saved).max():
            return []
        return [single] if alone[single] >= total[pair] else [pair, int(other[pair])]
