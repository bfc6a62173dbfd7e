"""Equal sorted values merged into one point with their total mass."""

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled, compiled_inline

Floats = NDArray[np.float64]

UNEQUAL = 32
"""Equal values are merged if more than one in `UNEQUAL` values repeats an earlier one."""


@compiled_inline
def is_worth_merging(n: int, distinct: int) -> bool:
    """Return whether so many of n values are equal that clustering merged values is faster.

    The optimum is the same: costs of equal points satisfy the quadrangle inequality, too.
    """
    return n - distinct > n // UNEQUAL


@compiled
def count_distinct(values: NDArray[np.floating]) -> int:
    """Return the number of distinct values among sorted ones."""
    distinct = 1
    for i in range(1, values.size):
        distinct += values[i] != values[i - 1]
    return distinct


@compiled
def merge_equal(
    values: NDArray[np.floating], mass: Floats, distinct: int
) -> tuple[NDArray[np.floating], Floats]:
    """Return the distinct values and the mass of each.

    Shapes: (n,), (n,) or (0,) -> (distinct,), (distinct,).
    """
    out, total = np.empty(distinct, values.dtype), np.zeros(distinct)
    out[0] = values[0]
    j = 0
    for i in range(values.size):
        if values[i] != out[j]:
            j += 1
            out[j] = values[i]
        total[j] += mass[i] if mass.size else 1.0
    return out, total
